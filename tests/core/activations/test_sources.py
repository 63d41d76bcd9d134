import pytest

from core.activations.sources import SourceError, format_of, local_path, matching_files, require_hub_id


@pytest.fixture
def tree(tmp_path):
    for name in ("a.py", "b.txt", "x/c.py", "x/y/d.py", "x/tests/e.py", "tests/f.py", "[odd] (name).py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*.py", ["[odd] (name).py", "a.py", "tests/f.py", "x/c.py", "x/tests/e.py", "x/y/d.py"]),
        ("*.py", ["[odd] (name).py", "a.py"]),
        ("x/**/*", ["x/c.py", "x/tests/e.py", "x/y/d.py"]),
        ("**/[cd].py", ["x/c.py", "x/y/d.py"]),
        ("**/?.*,!**/[!c].py", ["b.txt", "x/c.py"]),
        ("**/*.py, !**/tests/**/*", ["[odd] (name).py", "a.py", "x/c.py", "x/y/d.py"]),
        ("**/*.py,!x/**/*,!tests/**/*", ["[odd] (name).py", "a.py"]),
        (None, ["[odd] (name).py", "a.py", "b.txt", "tests/f.py", "x/c.py", "x/tests/e.py", "x/y/d.py"]),
    ],
)
def test_a_pattern_selects_what_a_glob_selects(tree, pattern, names):
    folder, found = matching_files(str(tree), pattern)
    assert folder == tree
    assert found == names
    if pattern is not None and "," not in pattern:
        assert found == sorted(path.relative_to(tree).as_posix() for path in tree.glob(pattern) if path.is_file())


def test_a_folder_that_is_left_out_is_not_entered(tree, monkeypatch):
    import core.activations.sources as sources

    entered = []
    walk = sources.os.walk
    monkeypatch.setattr(sources.os, "walk", lambda top: (entered.append(folder[0]) or folder for folder in walk(top)))
    matching_files(str(tree), "**/*.py,!**/tests/**/*")
    assert sorted(entered) == sorted(map(str, [tree, tree / "x", tree / "x/y"]))


def test_the_format_is_told_by_the_suffix_or_by_what_lies_in_the_folder(tmp_path):
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.py").touch()
    assert format_of(str(tmp_path / "a.jsonl")) == ("jsonl", None)
    assert format_of(str(tmp_path / "b.py")) == ("text", None)
    assert format_of(str(tmp_path)) == ("jsonl", "**/*.jsonl")
    assert format_of(str(tmp_path), "**/*.py,!x/**/*") == ("text", "**/*.py,!x/**/*")
    (tmp_path / "c.parquet").touch()
    assert format_of(str(tmp_path)) == ("parquet", "**/*.parquet")
    assert format_of("owner/name") == ("hub", None)


@pytest.mark.parametrize("source", ["openai-community/gpt2", "gpt2", "a/b.c-d_e", "NeelNanda/pile-10k"])
def test_a_hub_id_is_recognised(source):
    assert local_path(source) is None
    assert require_hub_id(source) == source


@pytest.mark.parametrize(
    "source", ["", "a/b/c", "/etc/nothing", "./x", "../x", "~/nothing", "a b", "a/..", "a--b/c", "-a", "é"]
)
def test_what_is_neither_path_nor_hub_id_is_refused(source):
    with pytest.raises(SourceError):
        require_hub_id(source)


def test_a_folder_without_text_says_what_to_do(tmp_path):
    (tmp_path / "b.py").touch()
    with pytest.raises(SourceError, match=r"holds no \.parquet, \.jsonl, \.txt or \.md files; name the files by"):
        format_of(str(tmp_path))
