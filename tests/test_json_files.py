"""JSON with checksums: every flipped bit and every cut is an error that names the file, or changes nothing."""

import json

import pytest

from easybn.json_files import (
    Damaged,
    read_json,
    read_last_row,
    read_rows,
    with_checksum,
    without_checksum,
    write_json,
    write_rows,
)

ROWS = [
    {"attack": "clean", "n": 1000, "correct": 871, "accuracy": 0.871, "eps": None, "notes": ['a "word"', "\u00fc"]},
    {"attack": "pgd", "n": 8, "correct": 0, "eps": 8 / 255, "of": {"1": [True, False], "x": 1e-300}, "right": "AA=="},
]


def same(a, b) -> bool:
    """As text too: 1, 1.0 and True are equal in Python."""
    return json.dumps(a) == json.dumps(b)


def test_round_trip(tmp_path):
    write_rows(tmp_path / "a.jsonl", ROWS)
    assert same(read_rows(tmp_path / "a.jsonl"), ROWS)
    assert read_rows(tmp_path / "none.jsonl") == []
    write_rows(tmp_path / "a.jsonl", [])
    assert read_rows(tmp_path / "a.jsonl") == []
    for value in (ROWS[0], ROWS):
        write_json(tmp_path / "a.json", value)
        assert same(read_json(tmp_path / "a.json"), value)
    assert same(without_checksum(with_checksum(with_checksum(ROWS[0])), "x"), ROWS[0])
    assert without_checksum(with_checksum({"a": (1, 2), "b": float("nan")}), "x")["a"] == (1, 2)


@pytest.mark.parametrize(("kind", "step"), [("rows", 5), ("json", 3), ("list", 11)])
def test_every_flipped_bit_is_named_or_changes_nothing(kind, step, tmp_path):
    path = tmp_path / "file"
    read = read_rows if kind == "rows" else read_json
    value = ROWS[0] if kind == "json" else ROWS
    write_rows(path, value) if kind == "rows" else write_json(path, value)
    whole, seen = path.read_bytes(), 0
    for place in range(0, 8 * len(whole), step):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            found = read(path)
        except Damaged as error:
            told = str(error)
            seen += 1
            assert str(path) in told
            continue
        assert same(found, value), bytes(flipped)
    assert seen > 6 * len(whole) / step


def test_every_cut_is_named_or_leaves_whole_rows(tmp_path):
    path = tmp_path / "file"
    write_rows(path, ROWS)
    whole, first = path.read_bytes(), len(json.dumps(with_checksum(ROWS[0]))) + 1
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length in (0, first):
            assert same(read_rows(path), ROWS[: int(length == first)])
            continue
        with pytest.raises(Damaged, match=rf"file, line {1 + (length > first)} is damaged: it is cut off"):
            read_rows(path)
    path.write_text('{"a": 1}\n{"a": ')  # as a kill left it where rows were appended
    assert read_rows(path, cut="legacy") == [{"a": 1}]
    with pytest.raises(Damaged, match="line 2 is damaged: it is cut off"):
        read_rows(path)
    write_json(path, ROWS)
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged, match="file is damaged"):
            read_json(path)


def test_another_layout_and_files_without_checksums_are_read(tmp_path):
    path = tmp_path / "file"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert same(read_rows(path), ROWS)
    path.write_text(json.dumps({**with_checksum(ROWS[1])}, sort_keys=True, indent=3))
    assert read_json(path) == ROWS[1]
    path.write_text(json.dumps({**with_checksum(ROWS[1]), "n": 9}))
    with pytest.raises(Damaged, match="its checksum is another one"):
        read_json(path)
    for text in ("1", "null", '"x"', "[1]", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(Damaged, match="is damaged"):
            read_json(path)
        path.write_text(text + "\n")
        with pytest.raises(Damaged, match="line 1 is damaged"):
            read_rows(path)


def test_the_last_row_alone_is_the_last_of_all_rows(tmp_path):
    path = tmp_path / "file"
    assert read_last_row(path) is None
    long = {"epoch": 1, "text": "x" * 40_000}  # longer than what is read at first
    for rows in ([], ROWS[:1], ROWS, [long], [*ROWS, long], [long, *ROWS], [long, long]):
        write_rows(path, rows)
        assert read_last_row(path) == (rows[-1] if rows else None)
    for text in ("{}\n\n\n", "\n", '{"a": 1}\n{"a": 2}\n{"a": 3', "{}"):
        path.write_text(text)
        assert read_last_row(path) == (read_rows(path, cut="legacy") or [None])[-1]


def test_a_last_row_that_is_cut_off_or_changed_is_named(tmp_path):
    path = tmp_path / "file"
    write_rows(path, ROWS)
    whole, first = path.read_bytes(), len(json.dumps(with_checksum(ROWS[0]))) + 1
    for length in range(first + 1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged, match="file, the last line is damaged: it is cut off"):
            read_last_row(path)
    path.write_bytes(whole.replace(b'"n": 8', b'"n": 9'))
    with pytest.raises(Damaged, match="file, the last line is damaged: its checksum is another one"):
        read_last_row(path)
