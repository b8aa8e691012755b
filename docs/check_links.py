"""Check that the links and figures within a built site exist: ``check_links.py FOLDER``."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Anchors of a page, and what it refers to."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.figures = {"", "top"}, set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get("id"), attributes.get("name")}
        if tag == "a" and attributes.get("href"):
            self.links.add(attributes["href"])
        elif tag == "img" and attributes.get("src"):
            self.figures.add(attributes["src"])


def broken(root):
    """Yield a line for each link, anchor or figure that leads nowhere."""
    pages = {path.resolve(): Page(path) for path in root.rglob("*.html")}
    for path, page in pages.items():
        for link in sorted(page.links | page.figures):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.exists():
                yield f"{path.relative_to(root)}: {link} does not exist"
            elif target in pages and unquote(url.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(root)}: {link} has no such anchor"
        is_example = path.parent.name == "auto_examples" and path.name.startswith("plot_")
        if is_example and not any("sphx_glr_plot" in figure for figure in page.figures):
            yield f"{path.relative_to(root)}: no figure"


if __name__ == "__main__":
    found = list(broken(Path(sys.argv[1]).resolve()))
    sys.exit("\n".join(found) if found else 0)
