"""`sinkscope scan`: is there a sink, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import common

EPILOG = """Examples:\n
  sinkscope scan                                   the bundled model\n
  sinkscope scan EleutherAI/pythia-160m --json     a Hub model, summary as JSON\n
  sinkscope scan ./my-model --length 256 --n 64 --bos both --out scan-of-my-model\n
  sinkscope scan ./my-model --expect sink          exit code 1 if there is none"""


def command(
    model: common.Model = None,
    revision: common.Revision = None,
    dtype: common.Dtype = "float32",
    device: common.Device = "cpu",
    device_map: common.DeviceMap = None,
    text: common.Text = "builtin",
    kind: common.Kind = "text",
    n: common.Count = 64,
    length: common.Length = 256,
    bos: common.Bos = "as-is",
    reader: common.Reader = "auto",
    seed: common.Seed = 0,
    untrained: common.Untrained = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder for summary.json, arrays.nc and report.html.")
    ] = None,
    expect: common.Expect = None,
    offline: common.Offline = False,
    allow_pickle: common.AllowPickle = False,
    trust_remote_code: common.TrustRemoteCode = False,
    json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Is there an attention sink, in which heads, and how sure is that."""
    common.scan_and_show(
        loading={
            "model": model,
            "revision": revision,
            "dtype": dtype,
            "device": device,
            "device_map": device_map,
            "offline": offline,
            "allow_pickle": allow_pickle,
            "trust_remote_code": trust_remote_code,
        },
        settings={
            "text": text,
            "kind": kind,
            "n": n,
            "length": length,
            "bos": bos,
            "reader": reader,
            "seed": seed,
            "untrained": untrained,
        },
        out=out,
        expect=expect,
        as_json=json,
    )


command.__name__ = "scan"
