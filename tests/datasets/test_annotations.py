"""What is read from annotation files, and what is refused: nothing in them is executed."""

import io
import math
import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.utils.annotations import (
    Performance,
    check_performances,
    find_file,
    listed_pairs,
    read_pickle,
    read_split,
)
from datasets.utils.dives import DIVE_GROUPS, group_of_dive_number, listed_dives
from tests.datasets.trees import KINDS, dive_facts, write_pickle
from utils.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "facts.pkl"


# Pickles


PLAIN = {
    (1, 2): {"score": 7.5, "marks": np.array([1.0, 2.5]), "text": "ü", "n": np.uint8(3), "f": np.float32(1.5)},
    ("a b", "1"): [1, None, True, (2.0, b"raw"), {3}],
    "ordered": OrderedDict(a=1),
    "words": np.array(["x", "yz"]),
    "objects": np.array([1, "a", None], dtype=object),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_arrays_are_read_from_every_protocol(path: Path, protocol: int) -> None:
    assert same(read_pickle(write_pickle(path, PLAIN, protocol), "x"), PLAIN)


def test_arrays_that_python_2_pickled_are_read(path: Path) -> None:
    """Bytes of an array are text of 8 bits there; this is what NumPy 1.x on Python 2 wrote, protocol 2."""
    array = np.array([9.5, -1.25, 1e300])
    content = io.BytesIO()
    content.write(b"\x80\x02}q\x00U\x05scoreq\x01")  # {"score": ...}, "score" as a string of bytes
    content.write(b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04")
    content.write(b"(K\x01K\x03\x85cnumpy\ndtype\nq\x05U\x02f8K\x00K\x01\x87R")
    content.write(b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    content.write(b"\x89U" + bytes([array.nbytes]) + array.tobytes() + b"tbs.")
    path.write_bytes(content.getvalue())
    pickletools.dis(content.getvalue(), out=io.StringIO())  # well-formed
    found = read_pickle(path, "x")
    assert list(found) == ["score"]
    assert found["score"].tolist() == array.tolist()


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, how: Any, *args: Any) -> None:
        self.how = how, args

    def __reduce__(self) -> Any:
        return self.how


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {(1, 1): {"final_score": evil}}, lambda evil: [evil]])
def test_code_in_a_pickle_is_not_executed(path: Path, tmp_path: Path, protocol: int, wrap: Any) -> None:
    mark = tmp_path / "executed"
    for evil in (
        Evil(os.system, f"touch {mark}"),
        Evil(open, str(mark), "w"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(exec, f"open({str(mark)!r}, 'w')"),
    ):
        write_pickle(path, wrap(evil), protocol)
        with pytest.raises(DataError, match=r"facts\.pkl.*where plain values and arrays are expected"):
            read_pickle(path, "mtl-aqa")
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # these pickles do what they are meant to do elsewhere
    assert mark.exists()


@pytest.mark.parametrize("name", ["numpy.core.multiarray._reconstruct.__self__", "dtype.__class__", "ndarray.tofile"])
def test_attributes_of_what_is_allowed_are_not_reached(path: Path, name: str) -> None:
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c" + bytes([len(name)]) + name.encode() + b"\x93.")
    with pytest.raises(DataError, match="plain values"):
        read_pickle(path, "x")


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(PLAIN)[:-20], b"\x80\x09."], ids=range(4))
def test_a_damaged_file_is_named(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"logo: cannot read .*facts\.pkl"):
        read_pickle(path, "logo")


def test_a_missing_file_and_a_folder_are_named(path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotation file .*facts\.pkl"):
        read_pickle(path, "logo")
    path.mkdir()
    with pytest.raises(DataError, match=r"cannot read .*facts\.pkl"):
        read_pickle(path, "logo")


@pytest.mark.parametrize(
    "content", [None, 5, "train", {("a", 1): 2}, {("a", 1), ("b", 2)}], ids=lambda content: type(content).__name__
)
def test_a_split_that_is_no_list_is_refused(path: Path, content: Any) -> None:
    """The order of a set of texts is another one in every process."""
    write_pickle(path, content)
    with pytest.raises(DataError, match=rf"logo: {path} holds no list of samples but a {type(content).__name__}"):
        read_split(path, "logo")


@pytest.mark.parametrize("content", [[("a", 1)], (("a", 1),), np.array([[1, 2]])], ids=["list", "tuple", "array"])
def test_a_split_is_read_in_its_order(path: Path, content: Any) -> None:
    assert [tuple(key) for key in read_split(write_pickle(path, content), "logo")] == [tuple(key) for key in content]


# Samples


def performance(name: str = "a", score: float = 1.0, part: str = "train", **more: Any) -> Performance:
    return Performance(name, score, part, source=f"s.csv, row {more.pop('row', 1)}", **more)


GOOD = [performance("a"), performance("b", part="test", row=2)]


def test_good_samples_pass_whatever_their_difficulty_if_they_have_one() -> None:
    check_performances([*GOOD, performance("c", difficulty=3.2), performance("d/1 x#", score=-4.0)], "x")


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_named(score: float) -> None:
    with pytest.raises(DataError, match=rf"x: s\.csv, row 3: the score of c is {score}, not a finite number"):
        check_performances([*GOOD, performance("c", score, row=3)], "x")


@pytest.mark.parametrize("difficulty", [0.0, -1.5, math.inf, -math.inf])
def test_a_difficulty_that_scores_cannot_be_divided_by_is_named(difficulty: float) -> None:
    with pytest.raises(DataError, match=rf"s\.csv, row 3: the degree of difficulty of c is {difficulty}, not above 0"):
        check_performances([*GOOD, performance("c", row=3, difficulty=difficulty)], "x")


def test_two_samples_of_one_name_are_named_with_both_places() -> None:
    with pytest.raises(DataError, match=r"two samples are called a: s\.csv, row 1 and s\.csv, row 7"):
        check_performances([*GOOD, performance("a", part="test", row=7)], "x")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_without_samples_is_named(part: str) -> None:
    with pytest.raises(DataError, match=f"no sample for {part}ing"):
        check_performances([each for each in GOOD if each.part != part], "x")


@pytest.mark.parametrize("name", ["../a", "a/../../b", "..", "/etc/passwd", "a//b", "a/", "./a", "a/./b", ""])
def test_a_name_that_leads_out_of_a_folder_or_has_two_spellings_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"row 3: .* cannot name files"):
        check_performances([*GOOD, performance(name, row=3)], "x")


# Splits and annotations


def pairs(tmp_path: Path, annotations: Any, listed: Any) -> list[tuple[tuple[str, str], Any, str]]:
    return listed_pairs(annotations, tmp_path / "anno.pkl", write_pickle(tmp_path / "train.pkl", listed), "logo")


def test_pairs_are_matched_whether_numbers_are_text_or_bytes(tmp_path: Path) -> None:
    annotations = {("A", 1): "a1", ("B", "2"): "b2", (b"C", np.int64(3)): "c3", "stray": 0}
    listed = [("C", 3), (b"A", "1"), ["B", np.int16(2)]]
    assert pairs(tmp_path, annotations, listed) == [
        (("C", "3"), "c3", "train.pkl, row 1"),
        (("A", "1"), "a1", "train.pkl, row 2"),
        (("B", "2"), "b2", "train.pkl, row 3"),
    ]


@pytest.mark.parametrize("key", [("A", 2), ("a", 1), ("A",), "A1", 7, None, ("A", 1, 2)], ids=str)
def test_a_listed_pair_without_annotation_is_named_by_file_and_row(tmp_path: Path, key: Any) -> None:
    with pytest.raises(DataError, match=r"logo: .*train\.pkl, row 2: "):
        pairs(tmp_path, {("A", 1): 0}, [("A", 1), key])


@pytest.mark.parametrize("annotations", [None, [], 5, "x"])
def test_annotations_that_are_no_dictionary_are_refused(tmp_path: Path, annotations: Any) -> None:
    with pytest.raises(DataError, match=r"anno\.pkl holds no annotations by \(event, instance\)"):
        pairs(tmp_path, annotations, [("A", 1)])


def dives(tmp_path: Path, annotations: Any, train: Any, test: Any = ()) -> list[Performance]:
    splits = {
        "train": write_pickle(tmp_path / "train.pkl", train),
        "test": write_pickle(tmp_path / "test.pkl", list(test)),
    }
    return listed_dives(annotations, tmp_path / "anno.pkl", splits, {(1, 64)}, "mtl-aqa")


FACTS = {(1, 1): dive_facts(0, 9, 110), (26, 112): dive_facts(3, 9, 120), (101, 3): dive_facts(6, 9, 130)}


@pytest.mark.parametrize("number", [int, np.uint8, np.int64, str, float], ids=lambda kind: kind.__name__)
def test_dives_are_read_whatever_kind_of_number_lists_them(tmp_path: Path, number: Any) -> None:
    listed = [tuple(number(part) for part in key) for key in [(26, 112), (1, 64), (101, 3)]]
    found = dives(tmp_path, FACTS, listed, [(1, 1)])
    assert [each.name for each in found] == ["26-112", "101-003", "01-001"]
    assert [each.part for each in found] == ["train", "train", "test"]
    assert [each.score for each in found] == [FACTS[key]["final_score"] for key in ((26, 112), (101, 3), (1, 1))]
    assert [each.difficulty for each in found] == [3.7, 3.2, 1.6]
    assert [each.group for each in found] == ["back", "reverse", "forward"]
    assert [each.source for each in found] == ["train.pkl, row 1", "train.pkl, row 3", "test.pkl, row 1"]
    assert found[1].place == {"video": 101, "end": 130}


@pytest.mark.parametrize("key", [(1, 2), (2, 1), (64, 1)])
def test_a_listed_dive_without_annotation_is_named_by_file_and_row(tmp_path: Path, key: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"train\.pkl, row 2: anno\.pkl knows no clip \(\d+, \d\); the two files"):
        dives(tmp_path, FACTS, [(1, 1), key])


@pytest.mark.parametrize("key", [5, None, "x", ("a", 1), (1, 2, 3), (1,), (None, 1)], ids=str)
def test_what_is_no_pair_of_numbers_is_named_by_file_and_row(tmp_path: Path, key: Any) -> None:
    with pytest.raises(DataError, match=r"train\.pkl, row 2: .* is not a \(video, clip\) pair"):
        dives(tmp_path, FACTS, [(1, 1), key])


@pytest.mark.parametrize(
    "damage",
    [
        {"final_score": "high"},
        {"final_score": None},
        {"end_frame": "last"},
        {"dive_number": "7X"},
        {"dive_number": ""},
        {"difficulty": "hard"},
    ],
    ids=str,
)
def test_an_annotation_with_a_wrong_field_is_named_by_file_and_clip(tmp_path: Path, damage: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"anno\.pkl: clip \(26, 112\): "):
        dives(tmp_path, FACTS | {(26, 112): FACTS[26, 112] | damage}, [(1, 1), (26, 112)])


@pytest.mark.parametrize("field", ["final_score", "end_frame"])
def test_an_annotation_without_a_field_is_named_by_file_and_clip(tmp_path: Path, field: str) -> None:
    facts = {name: value for name, value in FACTS[26, 112].items() if name != field}
    with pytest.raises(DataError, match=rf"anno\.pkl: clip \(26, 112\): KeyError: '{field}'"):
        dives(tmp_path, FACTS | {(26, 112): facts}, [(26, 112)])


@pytest.mark.parametrize("facts", [5, [1, 2], np.zeros(3), "text"], ids=lambda facts: type(facts).__name__)
def test_an_annotation_of_another_form_is_named_by_file_and_clip(tmp_path: Path, facts: Any) -> None:
    with pytest.raises(DataError, match=r"anno\.pkl: clip \(26, 112\)"):
        dives(tmp_path, FACTS | {(26, 112): facts}, [(26, 112)])


def test_a_dive_without_difficulty_has_none(tmp_path: Path) -> None:
    facts = {name: value for name, value in FACTS[1, 1].items() if name != "difficulty"}
    assert math.isnan(dives(tmp_path, {(1, 1): facts}, [(1, 1)])[0].difficulty)


@pytest.mark.parametrize("kind", KINDS, ids=DIVE_GROUPS)
def test_the_kind_of_a_dive_follows_from_its_number_and_from_its_description_alike(tmp_path: Path, kind: Any) -> None:
    facts = {**FACTS[1, 1], **dict(zip(("dive_number", "rotation_type", "armstand", "tw_no"), kind, strict=True))}
    described = {name: value for name, value in facts.items() if name != "dive_number"}
    groups = [dives(tmp_path, {(1, 1): each}, [(1, 1)])[0].group for each in (facts, described)]
    assert groups == [DIVE_GROUPS[KINDS.index(kind)]] * 2
    assert group_of_dive_number(kind[0]) == groups[0]


@pytest.mark.parametrize("number", ["", "0B", "7", "B5"])
def test_what_is_no_dive_number_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match="no dive number"):
        group_of_dive_number(number)


# Finding files


@pytest.mark.parametrize("folder", ["", "info", "annotations", "Annotations"])
def test_annotation_files_are_found_where_releases_put_them(tmp_path: Path, folder: str) -> None:
    path = write_pickle(tmp_path / folder / "b.pkl", 0)
    assert find_file(tmp_path, ("a.pkl", "b.pkl"), "x", "") == path


def test_the_first_name_is_preferred_and_absence_says_how_to_get_it(tmp_path: Path) -> None:
    write_pickle(tmp_path / "b.pkl", 0)
    path = write_pickle(tmp_path / "info" / "a.pkl", 0)
    assert find_file(tmp_path, ("a.pkl", "b.pkl"), "x", "") == path
    with pytest.raises(DataError, match=rf"x: no c\.pkl or d\.pkl in {tmp_path}\. Ask them\."):
        find_file(tmp_path, ("c.pkl", "d.pkl"), "x", "Ask them.")
