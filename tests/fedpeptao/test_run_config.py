"""--run-config as Flower reads it, and a message where Flower would show a traceback or be silent."""

import tomllib
from pathlib import Path

import pytest

from fedpeptao import run_config
from fedpeptao.errors import InputError

CHECKOUT = Path(run_config.__file__).resolve().parent.parent


def test_pairs_and_files_are_merged_and_the_last_wins(tmp_path: Path) -> None:
    file = tmp_path / "my run.toml"
    file.write_text('rounds = 5\nmodel = "a=b c"\n', encoding="utf8")
    merged = run_config.overrides(["rounds=3 alpha=0.5", str(file), "seed=7 partition='iid'"])
    assert merged == {"rounds": 5, "alpha": 0.5, "model": "a=b c", "seed": 7, "partition": "iid"}


def test_pairs_are_read_as_flower_reads_them() -> None:
    from flwr.common.config import parse_config_args

    text = """rounds=3 alpha=1e-1 model="random:bert" layers='3,4' """
    assert run_config.overrides([text]) == parse_config_args([text])


@pytest.mark.parametrize(
    "text", ["rounds = 3", "rounds=3 and more", "model=gpt2", "rounds", "rounds=3 rounds=4", "a=[1,2]"]
)
def test_what_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        run_config.overrides([text])
    assert caught.value.key == "--run-config"
    assert caught.value.value == text


@pytest.mark.parametrize("content", ["rounds =", "layers = [1, 2]", None])
def test_a_bad_file_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "bad.toml"
    if content is not None:
        file.write_text(content, encoding="utf8")
    with pytest.raises(InputError, match=r"bad\.toml"):
        run_config.overrides([str(file)])


@pytest.mark.parametrize("value", ['say "hi" = \\ ü\t', "3,4", True, False, 3, 1e-05, 0.1, -2])
def test_what_flower_gets_is_what_was_checked(value: str | int | float | bool) -> None:
    read = tomllib.loads(run_config.to_toml({"some-key": value}))
    assert read == {"some-key": value}
    assert type(read["some-key"]) is type(value)


def test_effective_settings_are_the_defaults_under_the_overrides() -> None:
    flat = run_config.check(CHECKOUT, {"rounds": 3}).flat()
    assert flat == {**run_config.defaults(CHECKOUT), "rounds": 3}


def test_an_unknown_key_names_the_close_one() -> None:
    with pytest.raises(InputError, match="clients-per-round"):
        run_config.check(CHECKOUT, {"client-per-round": 3})


def test_the_app_is_the_current_folder_or_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_config.app_folder(None) == CHECKOUT
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app.components]\n", encoding="utf8")
    assert run_config.app_folder(None) == tmp_path
    assert run_config.app_folder(".") == tmp_path


def test_a_folder_without_an_app_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="APP_DIR"):
        run_config.app_folder(str(tmp_path))
