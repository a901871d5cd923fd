"""The page as text: what it says, and that it stands alone."""

import json
import re

import pytest

from nnunet_topomae.report.page import write_report

ELSEWHERE = re.compile(r"""\s(?:src|href)=["'](?!#|data:)|url\((?!#)|@import|https?://(?!www\.w3\.org/)""")


def words(page: str) -> str:
    """The text between tags, spaces reduced."""
    body = re.sub(r"<(script|style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


@pytest.fixture
def write(results, tmp_path):
    def write(*folders, cases: int = 5) -> str:
        return write_report(folders or [results.dataset], tmp_path / "report.html", cases).read_text(encoding="utf-8")

    return write


def test_all_kinds_of_runs_on_one_page_that_stands_alone(page_of_all_kinds):
    page = page_of_all_kinds.read_text(encoding="utf-8")
    assert not ELSEWHERE.findall(page)
    assert len(page) < 1_000_000
    for section in ("summary", "worst", "knobs", "curves", "reconstructions", "metrics", "missing"):
        assert f'<section id="{section}">' in page
    assert page.count(": reference, predictions and errors") == 3
    assert page.count(": input, masked input, reconstructions") == 1 and page.count("Persistence diagrams of") == 2
    text = words(page)
    assert "A TopoMAEFinetuner" in text and "B TopoMAEPretrainer" in text and "C nnUNetTrainer" in text
    assert "masked MSE 0.5 ViT, 0.5 partner" in text
    assert "Was pre-training worth it? A TopoMAEFinetuner beside C nnUNetTrainer" in text
    assert "too few that differ for any difference to be told from chance" in text
    # Names are text and no markup.
    assert "<script>alert" not in page and "tumour &lt;b&gt;&amp;" in page
    assert "case &#34;3&#34; [x] &lt;script&gt;alert(1)&lt;_script&gt;" in page


def test_folds_of_a_trainer_are_one_model(results, write):
    for fold in range(3):
        results.segmentation(fold=fold)
    page = write()
    assert page.count('<article class="model">') == 1
    assert [f"A{fold} nnUNetTrainer" in page for fold in range(3)] == [True] * 3


def test_four_curves_are_shown_and_the_rest_folded_away(results, write):
    instruments = {"error_over_harmonic_vit": [2.0, 0.5], "points_over_constant_vit": [1.5, 0.5]}
    terms = {"train_reconstruction_vit": [1.0, 0.5], "val_reconstruction_vit": [1.0, 0.5], "vit_token_std": [0.6, 0.6]}
    results.fold("TopoMAEPretrainer", logging=instruments | terms)
    results.fold("nnUNetTrainer")
    page = write()
    shown, _, folded = page.partition('<section id="curves">')[2].partition("more</summary>")
    captions = [re.findall(r"<figcaption>(.*?)</figcaption>", part) for part in (shown, folded)]
    assert captions[0] == [
        *("pseudo Dice (patches)", "loss, segmentation"),
        *("error over harmonic inpainting", "point error over a constant&#39;s"),
    ]  # fmt: skip
    assert "total loss, pre-training" in captions[1] and "reconstruction, ViT" in captions[1]
    assert "Below 1 hidden voxels are filled better than by smoothing" in shown


def test_the_worst_cases_come_first_as_many_as_asked_for(results, write):
    results.segmentation()
    headings = re.findall(r"<h3>(\d)\. <bdi>(.*?)</bdi></h3>", write())
    assert [number for number, _ in headings] == ["1", "2", "3"]
    assert headings[0][1].startswith("case &#34;3&#34;") and headings[2][1] == "case_1"
    one = write(cases=1)
    assert one.count(": reference, predictions and errors") == 1 and "1 of 3 segmented validation cases" in words(one)


def test_what_is_missing_is_said_in_the_page(results, write, monkeypatch):
    results.segmentation()
    results.fold("TopoMAEPretrainer", checkpoint="latest")
    results.fold("TopoMAEFinetuner", checkpoint=None)
    monkeypatch.delenv("nnUNet_raw")
    text = words(write())
    assert "no images of Dataset777_Report: set nnUNet_raw" in text
    assert "not finished, 2 of 2 epochs" in text
    assert "No checkpoint that can be read, so no curves." in text
    assert "No validation/summary.json." in text
    assert "No crops in its folder progress" in text


def test_a_missing_reference_or_prediction_is_named(results, write):
    folder = results.segmentation()
    (folder / "validation" / "case_2.nii.gz").unlink()
    (results.base / "preprocessed" / results.dataset.name / "gt_segmentations" / "case_1.nii.gz").unlink()
    (results.base / "raw" / results.dataset.name / "labelsTr" / "case_1.nii.gz").unlink()
    text = words(write())
    assert "validation/case_2.nii.gz does not exist" in text
    assert "no reference case_1.nii.gz in /elsewhere/gt_segmentations" in text


def test_an_earlier_report_is_replaced_and_nothing_else(results, write, tmp_path):
    results.fold()
    write()
    write()
    (tmp_path / "report.html").write_text("<h1>thesis</h1>")
    with pytest.raises(FileExistsError, match="exists and is no report"):
        write()
    assert (tmp_path / "report.html").read_text() == "<h1>thesis</h1>"


def test_whatever_another_trainer_logs_is_drawn_if_it_is_a_curve(results, write):
    results.fold("TheirTrainer", logging={"their_notes": ["a", "b"], "grad_norm": [1.0, 2.0]})
    page = write()
    assert "grad norm" in page and "their notes" not in page


def test_a_folder_of_another_plugin_shows_what_it_has(results, write):
    folder = results.segmentation("TheirTrainer")
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    summary["metric_per_case"][0]["metrics"]["1"] |= {"HD95": 3.5, "comment": "good", "Dice": None}
    (folder / "validation" / "summary.json").write_text(json.dumps(summary))
    (folder.parent / "plans.json").unlink()
    (folder.parent / "dataset.json").unlink()
    (folder / "checkpoint_final.pth").unlink()
    page = write()
    assert "A TheirTrainer has no dataset.json" in page
    assert "mean HD95" in page and "comment" not in page
    assert "No run here has any." in page


def test_a_model_names_the_weights_that_it_comes_from(results, write):
    chain = [
        {"source": "hf://Lab/Brains@abc/a.pth", "licence": "cc-by-4.0", "kind": "nnssl's"},
        {"source": "elsewhere/<b>.pth", "licence": None, "kind": "a checkpoint of TopoMAEPretrainer"},
    ]
    for fold, provenance in enumerate((chain, "odd", [3], {"a": 1})):
        results.fold("TopoMAEFinetuner", fold=fold, init_args={"provenance": provenance})
    text = words(write())
    assert (
        "hf://Lab/Brains@abc/a.pth (nnssl&#39;s; licence: cc-by-4.0), then "
        "elsewhere/&lt;b&gt;.pth (a checkpoint of TopoMAEPretrainer; licence: not named)" in text
    )
