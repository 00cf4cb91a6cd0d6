"""The documentation site: it builds without a warning and without a network, and no link in it leads nowhere."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
MISSING = [n for n in ("sphinx", "sphinx_gallery", "furo", "sphinx-mathjax-offline") if importlib.util.find_spec(n) is None]

pytestmark = [
    pytest.mark.docs,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install '.[docs]')"),
]
#: Nothing can be reached: a build that asks for the network fails.
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[n] for n in ("id", "name") if attrs.get(n)}
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        elif tag == "link" and attrs.get("rel") not in ("canonical", "search", "index", "next", "prev"):
            self.loads.append(attrs["href"])
        elif tag in ("script", "img", "source", "iframe") and attrs.get("src"):
            self.loads.append(attrs["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages by their paths; built from a copy, so that nothing is left in the working tree."""
    home = tmp_path_factory.mktemp("site")
    for name in ("docs", "tutorials", "minisnn"):
        leave = shutil.ignore_patterns("_build", "__pycache__", *(["tutorials", "figures"] if name == "docs" else []))
        shutil.copytree(ROOT / name, home / name, ignore=leave)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "html"]
    env = {**os.environ, **OFFLINE, "PYTHONPATH": str(home)}
    env.pop("NO_LESSONS", None)
    run = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-6000:]
    return {path: Page(path) for path in (home / "html").rglob("*.html")}


def at(site, name):
    return next(path for path in site if path.as_posix().endswith(f"/html/{name}"))


def test_links_lead_somewhere(site):
    broken = []
    for path, page in site.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in site and anchor not in site[target].anchors):
                broken.append(f"{path.name}: {link}")
    assert not broken, broken


def test_pages_load_nothing_from_elsewhere(site):
    loads = {load for page in site.values() for load in page.loads}
    assert not {load for load in loads if urlsplit(load).netloc}
    formulas = [path for path in site if 'class="math ' in path.read_text(encoding="utf-8")]
    assert len(formulas) > 15
    assert all(any("tex-svg-full.js" in load for load in site[path].loads) for path in formulas)


def test_every_page_is_there(site):
    for name in ("derivations", "how_to", "reference"):
        assert all(at(site, f"{name}/{source.stem}.html") for source in (ROOT / "docs" / name).glob("*.rst"))
    lessons = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
    for lesson in lessons:
        text = at(site, f"tutorials/{lesson.stem}.html").read_text(encoding="utf-8")
        assert "sphx-glr-script-out" in text and "Traceback" not in text, f"{lesson.name} was not run"
    assert lessons


def test_equations_are_numbered_by_their_tags(site):
    text = at(site, "derivations/lif.html").read_text(encoding="utf-8")
    assert re.search(r'class="eqno">\(lif\.4\)', text) and re.search(r'href="#equation-lif-5">\(lif\.5\)', text)
    assert "(lif.11)</a>" in at(site, "derivations/thresholds.html").read_text(encoding="utf-8")
