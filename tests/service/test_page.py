"""The page, used in a real browser."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from service.page import FOLDER
from tests.service import colours
from tests.service.conftest import Gate
from tests.service.live import classify, live_service
from tests.service.pictures import png
from tests.service.test_keys import entry

CHROMIUM = shutil.which("chromium")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

HOSTILE = "<img src=x onerror=\"document.title='taken'\">'\";$(touch x).png"

DROP = """([id, files]) => {
  const data = new DataTransfer();
  for (const [name, text] of files) {
    const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
    data.items.add(new File([bytes], name, { type: "image/png" }));
  }
  const kind = id === "paste" ? "paste" : "drop";
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent(kind, { ...options, clipboardData: data })
    : new DragEvent(kind, { ...options, dataTransfer: data });
  document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    options = ["--disable-gpu", "--disable-background-networking", "--no-sandbox"]
    options += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Two models; the labels of the second one are hostile."""
    models = tmp_path_factory.mktemp("models")
    colours.save_served(models, "colours", 1)
    colours.save_served(models, "shades", 1, labels=("<b>rouge</b>", "vert", "bleu"))
    with live_service(models) as client:
        yield client


class Opened:
    """A page that is open, and what went wrong on it."""

    def __init__(self, page: Page, client: httpx.Client) -> None:
        self.page = page
        self.faults: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", self._on_message)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.hosts.add(httpx.URL(request.url).netloc.decode()))
        page.goto(str(client.base_url))
        expect(page.locator("#model option")).not_to_have_count(0)

    def _on_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(message.text)

    def give(self, *files: tuple[str, bytes], how: str = "drop") -> None:
        self.page.evaluate(DROP, [how, [[name, base64.b64encode(data).decode()] for name, data in files]])

    def bars(self, card: int) -> list[tuple[str, str]]:
        rows = self.page.locator(".card").nth(card).locator(".bars li")
        return [
            (row.locator("span").nth(0).inner_text(), row.locator("span").nth(1).inner_text()) for row in rows.all()
        ]


@pytest.fixture
def opened(browser: Browser, service: httpx.Client) -> Iterator[Opened]:
    """Nothing may have gone wrong on it in the end, nor been asked of others."""
    with browser.new_page() as page:
        opened = Opened(page, service)
        yield opened
        assert opened.faults == []
        assert opened.hosts <= {service.base_url.netloc.decode(), ""}


def shown(predictions: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["label"], f"{100 * each['probability']:.1f} %") for each in predictions]


@needs_chromium
def test_three_pictures_of_which_one_is_broken_are_dropped(opened: Opened, service: httpx.Client) -> None:
    pictures = [("a.png", png("red")), ("b.png", b"no picture"), ("c.png", png("blue"))]

    opened.give(*pictures)

    cards = opened.page.locator(".card")
    expect(cards).to_have_count(3)
    expect(cards.nth(2).locator(".bars li")).to_have_count(3)
    results = classify(service, *(data for _, data in pictures), model="colours").json()["results"]
    for place in (0, 2):
        assert opened.bars(place) == shown(results[place]["predictions"])
        expect(cards.nth(place).locator("img")).to_be_visible()
    expect(cards.nth(1).locator(".said")).to_have_text(results[1]["error"]["message"])
    expect(cards.nth(1).locator(".bars li")).to_have_count(0)
    expect(cards.nth(1).locator("figure")).to_have_class("unseen")
    assert re.search(r"decode [\d.]+ ms, .*infer [\d.]+ ms", cards.nth(0).locator(".times").inner_text())
    share = cards.nth(0).locator(".bars li").first.evaluate("bar => bar.style.getPropertyValue('--share')")
    assert float(share) == pytest.approx(results[0]["predictions"][0]["probability"])


@needs_chromium
def test_another_model_is_asked_about_the_same_pictures(opened: Opened) -> None:
    opened.give(("a.png", png("red")))
    expect(opened.page.locator(".said")).to_contain_text("red")

    opened.page.get_by_label("Model").select_option(index=1)

    expect(opened.page.locator(".said")).to_contain_text("<b>rouge</b>")
    expect(opened.page.locator(".card")).to_have_count(1)
    assert "model=shades" in opened.page.locator("#curl").inner_text()
    opened.give(("b.png", png("lime")))
    expect(opened.page.locator(".said").nth(1)).to_contain_text("vert")


@needs_chromium
def test_pictures_are_pasted_and_cleared(opened: Opened) -> None:
    opened.give(("pasted.png", png("lime")), how="paste")
    expect(opened.page.locator(".said")).to_contain_text("green")
    opened.page.get_by_role("button", name="clear").click()
    expect(opened.page.locator(".card")).to_have_count(0)
    expect(opened.page.locator("#again")).to_be_hidden()


@needs_chromium
def test_the_keyboard_is_enough(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "chosen.png").write_bytes(png("red"))
    reached = []
    for _ in range(5):
        opened.page.keyboard.press("Tab")
        reached.append(opened.page.evaluate("document.activeElement.id"))
    assert reached[:4] == ["files", "camera", "clear", "model"]
    # What a key opens on this is the browser's own window, of which the browser does not always tell.
    opened.page.locator("#files").set_input_files(tmp_path / "chosen.png")
    expect(opened.page.locator(".said")).to_contain_text("red")
    opened.page.locator("#clear").focus()
    opened.page.keyboard.press("Enter")
    expect(opened.page.locator(".card")).to_have_count(0)


@needs_chromium
def test_the_camera_gives_a_picture_and_is_let_go(opened: Opened) -> None:
    opened.page.get_by_role("button", name="use the camera").click()
    expect(opened.page.locator("#video")).not_to_have_js_property("videoWidth", 0)
    opened.page.get_by_role("button", name="take the picture").click()
    expect(opened.page.locator(".bars li")).to_have_count(3)
    expect(opened.page.locator("figcaption")).to_have_text("camera-1.jpg")
    assert opened.page.evaluate("document.getElementById('video').srcObject") is None


@needs_chromium
def test_names_and_labels_are_text_whatever_they_hold(opened: Opened) -> None:
    opened.page.get_by_label("Model").select_option(index=1)
    opened.give((HOSTILE, png("red")))
    expect(opened.page.locator(".said")).to_contain_text("<b>rouge</b>")
    expect(opened.page.locator("figcaption")).to_have_text(HOSTILE)
    assert opened.page.title() == "Strip-MLP: classify pictures"
    assert opened.page.locator(".card b").count() == 0


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_readably(browser: Browser, service: httpx.Client, scheme: Any) -> None:
    with browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        opened = Opened(page, service)
        opened.give(("a" * 80 + ".png", png("red")), ("b.png", b"no picture"))
        expect(page.locator(".said").nth(1)).to_contain_text("not a readable picture")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}[scheme]
        for selector in ("body", "dt", ".said.error", ".times", ".bars li", "a"):
            colour = page.locator(selector).first.evaluate("one => getComputedStyle(one).color")
            behind = ground
            if selector == ".bars li":
                behind = page.locator(selector).first.evaluate(
                    "one => getComputedStyle(one, '::before').backgroundColor"
                )
            # WCAG 2.2, criterion 1.4.3
            assert contrast(colour, behind) >= 4.5, selector
        assert opened.faults == []


def contrast(one: str, other: str) -> float:
    """Of two colours as CSS has them (WCAG 2.2, "contrast ratio")."""
    lights = []
    for colour in (one, other):
        parts = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)


@needs_chromium
def test_everything_has_a_name_for_screen_readers(opened: Opened) -> None:
    opened.give(("a.png", png("red")))
    expect(opened.page.locator(".bars li")).to_have_count(3)
    said = opened.page.locator("body").aria_snapshot()
    for part in ('heading "Classify pictures"', 'button "use the camera"', 'combobox "Model"', 'img "a.png"', "status"):
        assert part in said
    for kind in ("button", "input:not([type=hidden])", "select", "img"):
        for element in opened.page.locator(kind).all():
            if element.is_visible():
                names = "one => one.labels?.length || one.innerText || one.alt || one.ariaLabel"
                assert element.evaluate(names), element


@needs_chromium
def test_a_service_without_room_is_asked_again(browser: Browser, colour_models: Path, gate: Gate) -> None:
    with live_service(colour_models, batch_limit=1, max_queue=1, max_images=1) as client, browser.new_page() as page:
        opened = Opened(page, client)
        gate.open.clear()
        opened.give(("a.png", png("red")))
        assert gate.reached.wait(30)
        opened.give(("b.png", png("lime")))
        expect(page.locator(".said").nth(1)).to_contain_text(
            re.compile("would pass the limit of 1; trying again in 1 s")
        )
        gate.open.set()
        expect(page.locator(".said").nth(1)).to_contain_text("green")


@needs_chromium
def test_a_service_with_keys_is_given_one(browser: Browser, colour_models: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(entry("alice", "secret"))
    with live_service(colour_models, api_keys_file=tmp_path / "keys.toml") as client, browser.new_page() as page:
        page.goto(str(client.base_url))
        expect(page.locator("#status")).to_contain_text("needs an API key")
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="use it").click()
        expect(page.locator("#status")).to_contain_text("needs an API key")

        page.get_by_label("API key").fill("secret")
        page.get_by_role("button", name="use it").click()
        expect(page.locator("#status")).to_have_text("")
        expect(page.locator("#model option")).to_have_count(1)
        page.evaluate(DROP, ["drop", [["a.png", base64.b64encode(png("red")).decode()]]])
        expect(page.locator(".said")).to_contain_text("red")


@needs_chromium
def test_the_load_is_shown(opened: Opened) -> None:
    opened.give(*[(f"{number}.png", png("red")) for number in range(9)])
    expect(opened.page.locator("#queue")).to_have_text(re.compile(r"^\d+ of 1024$"))
    opened.give(("more.png", png("red")))
    expect(opened.page.locator("#rate")).to_have_text(re.compile(r"^[\d.]+ /s$"))


def module(opened: Opened, file: str, call: str, *arguments: Any) -> Any:
    """What a function of one of the page's modules gives."""
    return opened.page.evaluate(
        "async ([file, call, given]) => (await import(file))[call](...given)",
        [f"/static/{file}", call, list(arguments)],
    )


@needs_chromium
def test_samples_are_summed_up_by_hand(opened: Opened) -> None:
    def text(ok: int, counts: list[int]) -> str:
        bounds = ("0.1", "0.5", "+Inf")
        name = "stripmlp_request_duration_seconds_bucket"
        rows = [f'{name}{{endpoint="/classify",le="{le}"}} {count}.0' for le, count in zip(bounds, counts, strict=True)]
        rows += [f'{name}{{endpoint="/models",le="0.1"}} 1e9', '# HELP stripmlp_x "', "other 5"]
        rows += [f'stripmlp_images_total{{model="a\\"}}",version="1",outcome="ok"}} {ok}', "stripmlp_queue_limit 512.0"]
        rows += [
            'stripmlp_images_total{model="a",version="1",outcome="failed"} 7',
            'stripmlp_queue_images{model="a"} 3',
        ]
        return "\n".join(rows)

    before = module(opened, "metrics.js", "samples", text(10, [5, 5, 5]), "stripmlp_")
    after = module(opened, "metrics.js", "samples", text(110, [103, 105, 105]), "stripmlp_")
    tail = module(opened, "metrics.js", "samples", text(110, [5, 105, 105]), "stripmlp_")

    expected = {"rate": 50, "p99": 0.5, "queue": 3, "limit": 512}
    assert module(opened, "metrics.js", "summary", before, after, 2) == expected
    assert module(opened, "metrics.js", "summary", before, tail, 2) == expected
    assert module(opened, "metrics.js", "summary", before, before, 2) == expected | {"rate": 0, "p99": None}


@needs_chromium
@pytest.mark.parametrize("name", ["a.png", "größe 1.png", HOSTILE, "a;b,c.png", "\\.png", "it's.png"])
def test_snippets_do_what_was_done(opened: Opened, service: httpx.Client, tmp_path: Path, name: str) -> None:
    name = name.replace("/", "_")
    (tmp_path / name).write_bytes(png("red"))
    url = f"{str(service.base_url).rstrip('/')}/classify?model=colours&version=1"
    for call, command in (("curl", ["sh", "-c"]), ("python", [sys.executable, "-c"])):
        snippet = module(opened, "snippets.js", call, url, [name])
        done = subprocess.run([*command, snippet], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
        assert "red" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {name}, "nothing else was run"


def test_the_files_come_with_a_policy(service: httpx.Client) -> None:
    files = [path for path in FOLDER.iterdir() if path.suffix in {".css", ".js"}]
    assert len(files) == 4
    for path in ("/", *(f"/static/{file.name}" for file in files)):
        response = service.get(path)
        assert response.status_code == 200
        assert response.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["etag"]
    html = (FOLDER / "index.html").read_text("utf-8")
    assert not re.findall(r"<script(?![^>]*src=)|style=|\son\w+=|https?:", html)


@pytest.mark.parametrize("name", ["none.js", "index.html", "..%2fpage.py", "../page.py", "%2e%2e/page.py"])
def test_there_are_no_other_files(service: httpx.Client, name: str) -> None:
    assert service.get(f"/static/{name}").status_code == 404


@needs_chromium
def test_docs_need_nothing_from_elsewhere(browser: Browser, service: httpx.Client) -> None:
    hosts = set()
    with browser.new_page() as page:
        page.on("request", lambda request: hosts.add(httpx.URL(request.url).netloc.decode()))
        page.goto(str(service.base_url.join("/docs")))
        expect(page.get_by_text("/classify", exact=True).first).to_be_visible()
    assert hosts <= {service.base_url.netloc.decode(), ""}
    assert json.loads(service.get("/openapi.json").text)["openapi"].startswith("3.1")
