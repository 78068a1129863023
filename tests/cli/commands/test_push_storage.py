"""Pushing to a Hub without the storage Xet, whose client says so in the text of an error alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi

from aajr_hf.cli.commands import push
from aajr_hf.cli.common.errors import UserError


class _Waits(Exception):
    pass


@pytest.mark.parametrize(
    ("text", "passes"), [("client error (404 Not Found)", False), ("server error (503 Service Unavailable)", True)]
)
def test_a_push_ends_where_waiting_does_not_help(monkeypatch, tmp_path, text, passes):
    refused = ConnectionError(
        f"Network error: HTTP status {text}, domain: http://hub/api/models/a/b/xet-write-token/main"
    )

    def upload(*_, **__):
        raise refused

    def sleep(seconds):
        raise _Waits

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: SimpleNamespace(repo_id="a/b"))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr(push.time, "sleep", sleep)
    with pytest.raises(_Waits if passes else UserError) as ended:
        push.push(tmp_path, "a/b", None)
    assert passes or "404" in str(ended.value) and "HF_HUB_DISABLE_XET=1" in str(ended.value)
