"""What a page and a table show."""

import io
from html.parser import HTMLParser

from rich.console import Console

from aajr_hf.evaluation.reporting import report


def piped(table, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(table)
    return console.file.getvalue()


class Page(HTMLParser):
    """Tags left open, every attribute, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text, self.tags = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def page(results, path):
    report.write_report(results, path.parent)
    return Page(path.read_text(encoding="utf-8"))
