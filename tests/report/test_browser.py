"""The page in a browser, from file://."""

import json

import pytest

from nnunet_topomae.report.mosaic import as_bytes

from .conftest import panel

WIDE, PHONE = 1280, 360


@pytest.fixture
def opened(page_of_all_kinds, browser):
    """Opens the page in a window of some width; meanwhile nothing may go wrong or over the network."""
    from selenium.webdriver.support.ui import WebDriverWait

    def open_page(width: int):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page_of_all_kinds.as_uri())
        drawn = "return [...document.querySelectorAll('.viewer')].every(viewer => viewer.dataset.ready)"
        WebDriverWait(browser, 60).until(lambda b: b.execute_script(drawn))
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert page_of_all_kinds.as_uri() in asked and not [url for url in asked if url.startswith("http")]


def pixels(browser, article: int) -> list[str]:
    """What each canvas of an article shows."""
    viewer = browser.find_elements("css selector", ".viewer")[article]
    script = "return [...arguments[0].querySelectorAll('canvas')].map(canvas => canvas.toDataURL())"
    return browser.execute_script(script, viewer)


def control(browser, article: int, name: str):
    return browser.find_elements("css selector", ".viewer")[article].find_element("name", name)


def output(browser, article: int, name: str) -> str:
    return control(browser, article, name).find_element("xpath", "../output").text


def press(element, *keys: str) -> None:
    from selenium.webdriver.common.keys import Keys

    element.send_keys(*[getattr(Keys, key) for key in keys])


def test_a_slider_moves_through_the_slices_of_a_case(opened):
    browser = opened(WIDE)
    before, said = pixels(browser, 0), output(browser, 0, "slice")
    press(control(browser, 0, "slice"), "ARROW_RIGHT")  # by keyboard
    after = pixels(browser, 0)
    assert output(browser, 0, "slice") != said
    assert len(before) == 4 and all(a != b for a, b in zip(before, after, strict=True))


def test_each_plane_shows_the_voxels_of_its_slice(opened):
    from selenium.webdriver.support.ui import Select

    browser = opened(WIDE)
    one = panel("a", 2)
    volumes = {0: as_bytes(one.image, (0, 255)), 2: as_bytes(one.completed["vit"], (0, 255))}  # by canvas
    reds = """
        const canvas = document.querySelectorAll('.viewer')[3].querySelectorAll('canvas')[arguments[0]];
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        return [...copy.getImageData(0, 0, canvas.width, canvas.height).data].filter((value, i) => i % 4 === 0);
    """
    for axis, side in enumerate(one.image.shape):
        Select(control(browser, 3, "plane")).select_by_index(axis)
        press(control(browser, 3, "slice"), "END", "ARROW_LEFT")
        assert output(browser, 3, "slice") == f"{side - 1} of {side}"
        for canvas, volume in volumes.items():
            assert browser.execute_script(reds, canvas) == volume.take(side - 2, axis).ravel().tolist()


def test_overlay_fades_and_errors_can_be_seen_alone(opened):
    browser = opened(WIDE)
    image, reference, *_ = pixels(browser, 0)
    assert image != reference
    control(browser, 0, "errors").click()
    image, reference, *predictions = pixels(browser, 0)
    assert image == reference and all(prediction != image for prediction in predictions)
    control(browser, 0, "errors").click()
    press(control(browser, 0, "opacity"), "HOME")
    assert len(set(pixels(browser, 0))) == 1


def test_epochs_move_reconstructions_and_points(opened):
    browser = opened(WIDE)
    last = 3  # viewers before it are of segmented cases
    image, masked, vit, partner = pixels(browser, last)
    assert len({image, masked, vit}) == 3 and partner == image  # the fixture's partner is perfect
    shown = "return [...document.querySelectorAll('g[data-epoch]')].map(g => g.style.display !== 'none')"
    assert browser.execute_script(shown) == [False, True]
    press(control(browser, last, "epoch"), "HOME")
    assert output(browser, last, "epoch") == "1"
    assert pixels(browser, last)[2] != vit and pixels(browser, last)[:2] == [image, masked]
    assert browser.execute_script(shown) == [True, False]


def test_tables_sort_both_ways_by_number_with_dashes_last(opened):
    browser = opened(WIDE)
    table = browser.find_element("xpath", "//h3[.='Segmented validation cases']/following::table[1]")
    column = [th.text for th in table.find_elements("css selector", "th")].index("mean Dice")
    cells = f"return [...arguments[0].tBodies[0].rows].map(row => Number(row.cells[{column}].dataset.number))"
    button = table.find_elements("css selector", "th button")[column]
    button.click()
    rising = browser.execute_script(cells, table)
    press(button, "ENTER")
    falling = browser.execute_script(cells, table)
    assert len(set(rising)) > 2 and rising == sorted(rising) and falling == rising[::-1]
    assert table.find_elements("css selector", "th")[column].get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_nothing_is_wider_than_the_window(opened, width):
    browser = opened(width)
    browser.execute_script("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    inside = "return [...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert width == WIDE or browser.execute_script(inside) == 0


def test_slices_are_marked_by_the_header_or_not_at_all(opened):
    from selenium.webdriver.support.ui import Select

    browser = opened(WIDE)
    edges = """return ['top', 'bottom', 'left', 'right'].map(
        edge => document.querySelectorAll('.viewer')[arguments[0]].querySelector('.slice .' + edge).textContent)"""
    assert browser.execute_script(edges, 0) == ["A", "P", "R", "L"]
    Select(control(browser, 0, "plane")).select_by_visible_text("sagittal")
    assert browser.execute_script(edges, 0) == ["S", "I", "A", "P"]
    assert browser.execute_script(edges, 3) == [""] * 4  # of this crop's case there is no raw image


def test_it_is_dark_where_the_reader_likes_that(opened):
    browser = opened(WIDE)
    colours = """return [document.body, document.querySelector('#curves svg text')].map(
        (element, n) => getComputedStyle(element)[n ? 'fill' : 'backgroundColor'].match(/\\d+/g).map(Number))"""
    light = browser.execute_script(colours)
    media = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    dark = browser.execute_script(colours)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert min(light[0]) > 200 > 100 > max(light[1]) and max(dark[0]) < 100 < 200 < min(dark[1])


def test_everything_that_shows_has_a_name(opened):
    browser = opened(WIDE)
    nameless = browser.execute_script(
        "return [...document.querySelectorAll('canvas, svg')].filter(e => !e.getAttribute('aria-label')).length"
        " + [...document.querySelectorAll('input, select')].filter(e => !e.labels.length).length"
    )
    assert nameless == 0
