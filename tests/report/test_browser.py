"""The page in a browser, from file://."""

import json

import pytest

WIDE, PHONE = 1280, 360


@pytest.fixture
def opened(page_of_all_kinds, browser):
    """Opens the page in a window of some width; meanwhile nothing may go wrong or over the network."""

    def open_page(width: int):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page_of_all_kinds.as_uri())
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert page_of_all_kinds.as_uri() in asked and not [url for url in asked if url.startswith("http")]


def test_tables_sort_both_ways_by_number(opened):
    from selenium.webdriver.common.keys import Keys

    browser = opened(WIDE)
    table = browser.find_element("xpath", "//h3[.='Segmented validation cases']/following::table[1]")
    heads = table.find_elements("css selector", "th")
    column = [head.text.split(" ⇅")[0] for head in heads].index("mean Dice")
    cells = f"return [...arguments[0].tBodies[0].rows].map(row => Number(row.cells[{column}].dataset.number))"
    button = heads[column].find_element("css selector", "button")
    button.click()
    rising = browser.execute_script(cells, table)
    button.send_keys(Keys.ENTER)
    falling = browser.execute_script(cells, table)
    assert len(set(rising)) > 2 and rising == sorted(rising) and falling == rising[::-1]
    assert heads[column].get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_nothing_is_wider_than_the_window_and_every_picture_is_there(opened, width):
    browser = opened(width)
    browser.execute_script("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    broken = "return [...document.images].filter(image => !image.naturalWidth || !image.alt).length"
    assert browser.execute_script("return document.images.length") > 8 and browser.execute_script(broken) == 0


def test_it_is_dark_where_the_reader_likes_that(opened):
    browser = opened(WIDE)
    back = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    light = browser.execute_script(back)
    media = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    dark = browser.execute_script(back)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert max(dark) < 100 < 200 < min(light)
