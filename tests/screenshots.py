"""Makes the pictures of the page in docs/screenshots/: `python -m tests.screenshots`, with the bundled model."""

import base64
import io
import shutil
from typing import Any

from PIL import Image, ImageDraw
from playwright.sync_api import expect, sync_playwright

from tests.conftest import REPOSITORY
from tests.service.live import live_service
from tests.service.test_page import DROP

VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1100, "height": 850}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1100, "height": 850}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}


def _ship() -> bytes:
    picture = Image.new("RGB", (320, 240), (150, 190, 225))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 150, 320, 240), fill=(40, 80, 120))
    draw.polygon(((50, 130), (270, 130), (240, 170), (80, 170)), fill=(120, 40, 40))
    draw.rectangle((120, 95, 200, 130), fill=(240, 240, 235))
    draw.rectangle((150, 65, 170, 95), fill=(200, 60, 50))
    return _file(picture)


def _lorry() -> bytes:
    picture = Image.new("RGB", (320, 240), (200, 205, 210))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 180, 320, 240), fill=(90, 90, 95))
    draw.rectangle((40, 80, 200, 180), fill=(235, 235, 240))
    draw.polygon(((200, 110), (250, 110), (280, 145), (280, 180), (200, 180)), fill=(30, 80, 170))
    for x in (80, 160, 245):
        draw.ellipse((x - 20, 165, x + 20, 205), fill=(25, 25, 25))
    return _file(picture)


def _file(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def main() -> None:
    """Drop three pictures of which one is broken, in each view."""
    files = [("ship.jpg", _ship()), ("broken.jpg", _ship()[:200]), ("lorry.jpg", _lorry())]
    dropped = ["drop", [[name, base64.b64encode(data).decode()] for name, data in files]]
    with live_service(REPOSITORY / "weights" / "models") as client, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, view in VIEWS.items():
            page = browser.new_page(**view)
            page.goto(str(client.base_url))
            expect(page.locator("#model option")).not_to_have_count(0)
            page.evaluate(DROP, dropped)
            expect(page.locator(".bars li")).to_have_count(10)
            expect(page.locator("#rate")).to_contain_text("/s")
            page.screenshot(path=REPOSITORY / "docs" / "screenshots" / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
