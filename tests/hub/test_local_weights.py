"""Weights by name, asked for by the real client."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_topomae.hub import Weights, local_weights

CARD = b"---\nlicense: cc-by-4.0\n---\n# Brains\n"
FILE = "sub/checkpoint_final.pth"


@pytest.fixture
def commits(hub) -> dict[str, str]:
    """Of Lab/Brains, by revision, after which its only file of weights is named too."""
    return {
        name: hub.commit("Lab/Brains", {"README.md": CARD, "config.json": b"{}", FILE: name.encode()}, name)
        for name in ("v1", "main")
    }


def test_a_path_is_itself_and_nobody_is_asked(hub):
    named = "folder/checkpoint_final.pth"
    assert local_weights(named) == Weights(Path(named), named, None)
    assert not hub.requests


@pytest.mark.parametrize(
    ("reference", "revision"),
    [
        ("hf://Lab/Brains", "main"),
        ("hf://models/Lab/Brains/", "main"),
        ("hf://Lab/Brains@v1", "v1"),
        (f"hf://Lab/Brains@v1/{FILE}", "v1"),
        ("hf://Lab/Brains@{v1}", "v1"),
    ],
)
def test_weights_come_with_their_commit_and_licence(hub, commits, reference, revision):
    weights = local_weights(reference.format(**commits))
    assert weights.path.read_text() == revision
    assert weights.source == f"hf://Lab/Brains@{commits[revision]}/{FILE}"
    assert weights.licence == "cc-by-4.0" and str(weights).endswith(f"{FILE} (licence: cc-by-4.0)")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (None, None),
        (b"# No front matter", None),
        (b"---\nlicense: other\nlicense_name: of-the-lab\n---\n", "of-the-lab"),
        (b"---\nlicense: [\n---\n", None),
    ],
)
def test_a_licence_is_what_the_card_names(hub, card, licence):
    hub.commit("Lab/Brains", {FILE: b"weights"} | ({"README.md": card} if card else {}))
    assert local_weights("hf://Lab/Brains").licence == licence


def test_what_was_downloaded_is_not_downloaded_again(hub, commits, offline):
    weights = local_weights("hf://Lab/Brains@v1")
    hub.requests.clear()
    assert local_weights("hf://Lab/Brains@v1") == weights
    assert not [asked for asked in hub.requests if asked.startswith("GET /Lab")]  # no content of a file
    hub.requests.clear()
    assert local_weights(weights.source) == weights
    assert not hub.requests
    offline(True)
    for reference in ("hf://Lab/Brains@v1", f"hf://Lab/Brains@v1/{FILE}", weights.source):
        assert local_weights(reference) == weights
    assert not hub.requests
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set, and it was not downloaded"):
        local_weights("hf://Lab/Brains")


def test_without_a_network_the_cache_does(hub, commits, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # before it tries again
    weights = local_weights("hf://Lab/Brains")
    hub.stop()
    assert local_weights("hf://Lab/Brains") == weights
    for other in ("hf://Lab/Brains@v1", f"hf://Lab/Brains@v1/{FILE}", "hf://Lab/Hearts"):
        with pytest.raises(OSError, match=f"{other}: {hub.endpoint} .*refused.* copy the file here and name its path"):
            local_weights(other)


def test_a_branch_that_moves_is_followed(hub, commits):
    local_weights("hf://Lab/Brains")
    moved = hub.commit("Lab/Brains", {"model.safetensors": b"better"})
    assert local_weights("hf://Lab/Brains").source == f"hf://Lab/Brains@{moved}/model.safetensors"


def test_what_we_export_comes_as_safetensors_with_the_vit_beside(hub):
    names = ("vit_encoder.safetensors", "plan_network.safetensors", "encoders.json", "plan_network_nnssl.pth")
    hub.commit("Lab/Ours", dict.fromkeys(names, b"weights"))
    path = local_weights("hf://Lab/Ours").path
    assert path.name == "plan_network.safetensors"
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(names[:3])


@pytest.mark.parametrize(
    ("reference", "error", "remedy"),
    [
        ("hf://Lab", ValueError, "write hf://owner/name"),
        ("hf://Lab/Bra ins", ValueError, "alphanumeric"),
        ("hf://Lab/Two", ValueError, "name one: hf://Lab/Two/a.pth, hf://Lab/Two/b.safetensors$"),
        ("hf://Lab/None", ValueError, "no file of weights .*only README.md"),
        ("hf://Lab/Brains/none.pth", OSError, "no such file: .*/Lab/Brains/tree/main lists them"),
        ("hf://Lab/Brains@v2", OSError, "no such branch, tag or commit .*/Lab/Brains/commits/main"),
        ("hf://Lab/Brains@v2/a.pth", OSError, "no such branch, tag or commit"),
        ("hf://Lab/Nowhere", OSError, "there is no http.*/Lab/Nowhere, or it is private"),
        ("hf://Lab/Nowhere/a.pth", OSError, "there is no http.*/Lab/Nowhere, or it is private"),
        ("hf://Lab/Gated", OSError, "asks for consent: give it at .*/Lab/Gated, then log in with `hf auth login`"),
    ],
)
def test_a_refusal_says_what_to_do(hub, commits, reference, error, remedy):
    hub.commit("Lab/Two", {"a.pth": b"", "b.safetensors": b"", "README.md": b""})
    hub.commit("Lab/None", {"README.md": b""})
    hub.commit("Lab/Gated", {"a.pth": b"weights"}, gated=True)
    with pytest.raises(error, match=remedy):
        local_weights(reference)


def test_what_is_gated_opens_to_who_has_consented(hub, monkeypatch):
    hub.commit("Lab/Gated", {"a.pth": b"weights"}, gated=True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_stranger")
    with pytest.raises(OSError, match="asks for consent"):
        local_weights("hf://Lab/Gated")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert local_weights("hf://Lab/Gated").path.read_bytes() == b"weights"
