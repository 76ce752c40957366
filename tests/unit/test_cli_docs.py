import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = [
    "docs/ten.1",
    "docs/tenement.toml.5",
    "completions/ten.bash",
    "completions/_ten",
    "completions/ten.fish",
]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", GENERATED)
def test_generated_documents_are_current(generate: ModuleType, name: str) -> None:
    text = generate.documents()[ROOT / name]
    assert (ROOT / name).read_text(encoding="utf-8") == text, "run: python3 docs/generate.py"


def test_every_generated_document_is_checked(generate: ModuleType) -> None:
    assert sorted(str(path.relative_to(ROOT)) for path in generate.documents()) == sorted(GENERATED)


@pytest.mark.parametrize("name", ["docs/ten.1", "docs/tenement.toml.5"])
def test_manual_pages_are_free_of_warnings(name: str) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", "-z", str(ROOT / name)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


BASH = """
ten() { printf 'notes:alice\\nnotes:bob\\n'; }
_init_completion() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${COMP_WORDS[COMP_CWORD]}; }
__ltrimcolon_completions() { :; }
_filedir() { COMPREPLY=(FILES); }
. "$1"
shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_ten
echo "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ten", "sp"], "spawn"),
        (["ten", "stop", ""], "notes:alice notes:bob"),
        (["ten", "stop", "notes:b"], "notes:bob"),
        (["ten", "ps", "no"], "notes:alice notes:bob notes"),
        (["ten", "ps", "--j"], "--json"),
        (["ten", "config", ""], "check show"),
        (["ten", "config", "check", "/et"], "FILES"),
        (["ten", "logs", "--rev"], "--reverse"),
        (["ten", "weight", "notes:a"], "notes:alice"),
    ],
)
def test_bash_completes_commands_options_and_tenants(words: list[str], found: str) -> None:
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", str(ROOT / "completions/ten.bash"), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.split() == found.split()


def test_zsh_gets_each_option_as_a_word_of_its_own() -> None:
    text = (ROOT / "completions/_ten").read_text(encoding="utf-8")
    assert "'-q:Show names only.' '--quiet:Show names only.' '--json:Write JSON.'" in text


@pytest.mark.parametrize(("shell", "name"), [("zsh", "_ten"), ("fish", "ten.fish")])
def test_completions_of_other_shells_are_at_least_well_formed(shell: str, name: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([program, "-n", str(ROOT / "completions" / name)], check=True)
