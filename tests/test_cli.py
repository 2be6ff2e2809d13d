"""The `eclab` command: what it prints, writes, and refuses with one clear line."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
import torch

import eclab
from eclab.cli import build_parser, doctor, lab, main
from eclab.cli.race import _new_folder, read_rates
from eclab.errors import SettingError
from eclab.race import Race, load

RACE = ["race", "--net", "64-12-10", "--batch", "200", "--device", "cpu"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(words) == 1
    seen = capsys.readouterr()
    assert seen.err.count("\n") == 1, "one clear line"
    assert "Traceback" not in seen.err
    assert seen.err.startswith("eclab: ")
    return seen.err


# -- race -------------------------------------------------------------------------------------------------------------


def test_a_race_prints_a_table_and_writes_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RACE, "--epochs", "2", "--lanes", "sgd,ec-sgd:0.2", "--lr", "sgd=0.05", "--out", "here"]) == 0
    seen = capsys.readouterr()
    assert re.search(r"SGD +0\.05 ", seen.out)
    assert re.search(r"EC-SGD +0\.2 ", seen.out)
    assert "run written to here" in seen.out
    assert "proves nothing" in seen.out
    result = load("here")
    assert result.config["position"] == 16
    assert result.config["finished"] is True
    plain = Race("64-12-10", "digits", ["sgd:0.05", "ec-sgd:0.2"], batch_size=200, epochs=2, device="cpu").run()
    assert plain.frame["loss"].equals(result.frame["loss"]), "the command is the library"


def test_without_a_folder_the_run_gets_a_new_one_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main([*RACE, "--epochs", "1"]) == 0
    folders = sorted(Path("runs").iterdir())
    assert len(folders) == 2
    assert all((folder / "config.json").is_file() and "digits" in folder.name for folder in folders)
    capsys.readouterr()


def test_races_that_start_in_one_second_get_folders_of_their_own() -> None:
    folders = [_new_folder("my data/2") for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(folder.is_dir() and folder.parent == Path("runs") for folder in folders)


def test_all_settings_arrive() -> None:
    words = [
        *("--activation", "leaky_relu", "--bias", "--limit", "300", "--momentum", "0.5", "--weight-decay", "0.01"),
        *("--start", "model", "--unbalance", "1.5", "--seed", "7", "--eval-every", "2", "--double", "--epochs", "1"),
    ]
    assert main([*RACE, *words, "--out", "here"]) == 0
    config = load("here").config
    expected = {"momentum": 0.5, "weight_decay": 0.01, "start": "model", "unbalance": 1.5, "seed": 7, "eval_every": 2}
    assert {name: config["settings"][name] for name in expected} == expected
    assert config["settings"]["dtype"] == "float64"
    assert config["data"]["train"] == 300
    assert config["network"]["spec"]["activation"] == "leaky_relu"
    assert config["network"]["spec"]["layers"][0]["bias"] is True


def test_ctrl_c_writes_a_checkpoint_and_resume_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Race.step

    def interrupted(race: Race):
        if race.position == 5:
            signal.raise_signal(signal.SIGINT)
        return step(race)

    monkeypatch.setattr(Race, "step", interrupted)
    words = [*RACE, "--epochs", "2", "--limit", "900", "--momentum", "0.9"]
    assert main([*words, "--out", "it is here"]) == 130
    assert "stopped after step 5; go on with: eclab race --resume 'it is here'" in capsys.readouterr().err
    assert not Path("it is here/config.json").exists()
    monkeypatch.setattr(Race, "step", step)
    assert main(["race", "--resume", "it is here", "--device", "cpu"]) == 0
    assert main([*words, "--out", "straight"]) == 0
    one, other = load("it is here"), load("straight")
    assert one.frame["loss"].equals(other.frame["loss"])
    assert all(torch.equal(one.weights["ec-sgd"][name], w) for name, w in other.weights["ec-sgd"].items())


def test_a_finished_run_goes_on_in_a_new_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RACE, "--epochs", "1", "--out", "one"]) == 0
    before = Path("one/config.json").read_bytes()
    assert "already holds a finished run" in refused(capsys, "race", "--resume", "one", "--epochs", "2")
    assert main(["race", "--resume", "one", "--epochs", "2", "--out", "two", "--device", "cpu"]) == 0
    assert load("two").config["position"] == 16
    assert Path("one/config.json").read_bytes() == before


def test_a_lane_that_diverges_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RACE, "--epochs", "1", "--lanes", "sgd:1e12,ec-sgd", "--out", "here"]) == 0
    seen = capsys.readouterr()
    assert "diverged at step" in seen.out
    assert "nan" not in seen.out.lower()


BAD = {
    "--net 64-0-10": "width",
    "--net 64-x-10": "it is written 'x'",
    "--net 63-8-10": "does not fit digits",
    "--net 64-10": "no free unit",
    "--net 64-8-10 --activation magic": "magic",
    "--net 64-8-10 --data nowhere": "the data set is 'nowhere'",
    "--net 64-8-10 --batch 5000": "the batch size is 5000",
    "--net 64-8-10 --lr 0": "the learning rate is 0",
    "--net 64-8-10 --lr nan": "the learning rate is nan",
    "--net 64-8-10 --lr fast": "the learning rate is 'fast'",
    "--net 64-8-10 --lr sgd=0.1,sgd=0.2,ec-sgd=1": "name a lane twice",
    "--net 64-8-10 --unbalance 1000": "an unbalance of 1000",
    "--net 64-8-10 --seed 9223372036854775808": "the seed is 9223372036854775808",
    "--net 64-8-10 --lr adam=1": "adam",
    "--net 64-8-10 --lanes adamant": "there is no lane 'adamant'",
    "--net 64-8-10 --epochs 0": "the number of epochs is 0",
    "--net 64-8-10 --unbalance -1": "the unbalance is -1",
    "--net 64-8-10 --start sideways": "the start is 'sideways'",
    "--net 64-8-10 --device abacus": "the device 'abacus'",
    "--net 64-8-10 --resume nowhere": "--net is given with --resume",
    "--resume nowhere": "there is no checkpoint",
    "": "no network is given",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_clear_line(capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert BAD[words] in refused(capsys, "race", *words.split())
    assert not Path("runs").exists()


def test_an_existing_run_is_refused_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*RACE, "--epochs", "1", "--out", "here"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(Race, "step", lambda _: pytest.fail("it trained"))
    assert "already holds a finished run" in refused(capsys, *RACE, "--out", "here")


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("in the way")
    monkeypatch.setattr(Race, "step", lambda _: pytest.fail("it trained"))
    for folder in ("file", "file/below"):
        assert "cannot be written" in refused(capsys, *RACE, "--out", folder)
    assert Path("file").read_text() == "in the way"


def test_without_a_terminal_there_is_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RACE, "--epochs", "2", "--out", "here"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line[:12] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert all(re.search(r"SGD [\d.]+ %  EC-SGD [\d.]+ %", line) for line in lines)
    assert sorted(one.name for one in Path("here").iterdir()) == [
        *("checkpoint.safetensors", "config.json"),
        *("metrics.parquet", "weights"),
    ]


def test_on_a_terminal_there_is_a_bar() -> None:
    import pty
    import subprocess
    import sys

    above, below = pty.openpty()
    words = [sys.executable, "-c", "import sys; from eclab.cli import main; sys.exit(main())", *RACE]
    done = subprocess.Popen([*words, "--epochs", "1", "--out", "here"], stdout=below, stderr=below, stdin=below)
    os.close(below)
    shown = b""
    with suppress(OSError):  # Linux ends the reading with an error when the other side is closed
        while piece := os.read(above, 4096):
            shown += piece
    os.close(above)
    assert done.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "8/8" in text
    assert "━" in text
    assert text.index("8/8") < text.index("test acc.") < text.index("run written to here")
    table = [line for line in re.split(r"[\r\n]+", text) if line.startswith(("lane ", "SGD  ", "EC-SGD  "))]
    assert len(table) == 3
    assert max(map(len, table)) <= 80


def test_truncated_checkpoints_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("here").mkdir()
    Path("here/checkpoint.safetensors").write_bytes(b"12345678901234567890")
    assert "truncated or no checkpoint" in refused(capsys, "race", "--resume", "here")


def test_rates() -> None:
    assert read_rates("0.1") == 0.1
    assert read_rates("sgd=0.1, ec-sgd=2e-1") == {"sgd": 0.1, "ec-sgd": 0.2}
    with pytest.raises(SettingError):
        read_rates("sgd=")


# -- help, audit, doctor, lab -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--help"], ["race", "--help"], ["audit", "--help"], ["doctor", "-h"], ["lab", "-h"]]
)
def test_help(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    assert "usage: eclab" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["sing"], ["race", "--loud"], ["race", "--epochs", "two"], ["race", "--out", " "]]
)
def test_unknown_words_end_with_usage(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: eclab" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"eclab {eclab.__version__}"


def test_every_command_has_a_help_text() -> None:
    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert sorted(commands.choices) == ["audit", "doctor", "lab", "race"]
    assert all(action.help for parser in commands.choices.values() for action in parser._actions)


def test_audit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--net", "784-64x4-10"]) == 0
    out = capsys.readouterr().out
    assert "63,104" in out
    assert "256" in out
    assert "131,533,373,440 paths" in out
    assert main(["audit", "--net", "2-4-2", "--data", "circle", "--bias"]) == 0
    assert "functional rank" in capsys.readouterr().out
    assert "does not fit" in refused(capsys, "audit", "--net", "3-4-2", "--data", "circle")
    assert "no network" in refused(capsys, "audit")
    assert "the seed is -1" in refused(capsys, "audit", "--net", "3-4-2", "--seed", "-1")


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECLAB_DATA", raising=False)
    monkeypatch.setattr(doctor, "notebooks", lambda: iter([doctor.Finding("notebook kernel", "python3")]))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "digits" in out
    assert "CPU" in out
    assert "Everything eclab needs is here." in out


def test_doctor_finds_what_is_missing_and_prints_the_fix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "requirements", lambda: [("torch", "999"), ("no-such-thing", "1.0"), ("numpy", "1.0")])
    monkeypatch.setenv("ECLAB_DATA", "nowhere")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "pip install --upgrade 'torch>=999'" in out
    assert "pip install 'no-such-thing>=1.0'" in out
    assert "nowhere, which is no folder" in out
    assert "Missing: torch, no-such-thing." in out


def test_doctor_advises_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    monkeypatch.setattr(doctor, "_version", lambda _: "")
    found = {one.what: one for one in doctor.devices()}
    assert found["cuda:0"].found == "H200"
    assert found["cupy"].fix.startswith("pip install 'eclab[cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    assert "CUDA build" in {one.what: one for one in doctor.devices()}["GPU"].fix


def test_doctor_says_when_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    monkeypatch.setattr(KernelSpecManager, "find_kernel_specs", lambda _: {})
    (finding,) = doctor.notebooks()
    assert finding.needed
    assert "ipykernel install" in finding.fix


def test_requirements_come_from_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2.6", "altair>=5.5,<9", "cupy-cuda13x>=13; extra == 'cuda13'"]
    monkeypatch.setattr(metadata, "requires", lambda _: lines)
    assert doctor.requirements() == [("torch", "2.6"), ("altair", "5.5")]


def test_lab_opens_the_notebook(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def call(words: list[str]) -> int:
        called.append(words)
        return 0

    monkeypatch.setattr("subprocess.call", call)
    Path("notebooks").mkdir()
    Path("notebooks/00-lab.ipynb").write_text(json.dumps(lab.template()))
    monkeypatch.setattr(lab, "is_root", lambda: False)
    assert main(["lab", "--port", "9000", "--no-browser"]) == 0
    opened = ["-m", "jupyterlab", *lab.opened_on(lab.NOTEBOOK)]
    assert f"--ServerApp.root_dir={Path.cwd() / 'notebooks'}" in opened
    assert "--LabApp.default_url=/lab/tree/00-lab.ipynb" in opened
    assert called[0][1:] == [*opened, "--port", "9000", "--no-browser"]
    monkeypatch.setattr(lab, "is_root", lambda: True)
    assert main(["lab"]) == 0
    assert called[1][1:] == [*opened, "--allow-root"]
    assert "the port is 65536" in refused(capsys, "lab", "--port", "65536")
    assert "the port is -1" in refused(capsys, "lab", "--port", "-1")
    assert len(called) == 2
    assert "there is no notebook other.ipynb" in refused(capsys, "lab", "other.ipynb")


def test_lab_writes_a_notebook_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat

    monkeypatch.setattr(lab, "__file__", str(Path.cwd() / "site" / "eclab" / "cli" / "lab.py"))
    path = lab.find_notebook(None)
    assert path == lab.OWN
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "eclab.Lab()" in notebook.cells[1].source
    path.write_text(path.read_text() + " ")
    assert lab.find_notebook(None).read_text().endswith(" "), "one that is there is left alone"
