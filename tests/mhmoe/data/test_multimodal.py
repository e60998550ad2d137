"""Images, text and both are one corpus whose images are text; drawn images are what is said of them."""

import dataclasses
import gzip
import hashlib
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image
from transformers import AutoTokenizer

from mhmoe.data.corpora import SPLITS, Corpus, LocalCorpus
from mhmoe.data.images import MASK, Pixels
from mhmoe.data.local_images import LocalImages
from mhmoe.data.multimodal import MultimodalCorpus
from mhmoe.data.packing import PackedDataset, PackingConfig, pack
from mhmoe.data.shapes import COLOURS, SHAPES, Shapes
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.data.tokenizer import as_transformers
from mhmoe.io import UserError

KINDS = ("images", "pairs", "texts")
DRAWN = MultimodalCorpus(
    images=Shapes(images_per_split=40, train_factor=4),
    text=GeneratedCorpus(documents_per_split=20),
    patch=4,
    codes=48,
    learned_from=60,
    piece_characters=150,
)
PACKING = PackingConfig(vocab_size=700, max_train_tokens=7000)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return pack(DRAWN, PACKING, tmp_path_factory.mktemp("cache"))


def is_visual(character: str) -> bool:
    return ord(MASK) < ord(character) <= ord(MASK) + DRAWN.codes


# ---- the corpus -----------------------------------------------------------------------------


def test_each_kind_has_about_a_third_of_the_tokens(packed: PackedDataset) -> None:
    for text in (packed.valid, packed.test):
        tokens = Counter[str]()
        for id_, size in zip(text.ids, np.diff(text.offsets), strict=True):
            tokens[id_.partition("/")[0]] += int(size)
        assert set(tokens) == set(KINDS)
        assert all(0.25 < of_kind / tokens.total() < 0.42 for of_kind in tokens.values())


def test_every_beginning_has_as_much_of_each_kind_and_none_is_repeated() -> None:
    """Counting three characters of text for a token, up to the largest document."""
    for split in SPLITS:
        found = list(DRAWN.documents(split))
        sizes = [sum(1 if is_visual(c) else 1 / 3 for c in document.text) for document in found]
        given: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        for document, size in zip(found, sizes, strict=True):
            given[document.id.partition("/")[0]] += size
            assert max(given.values()) - min(given.values()) <= max(sizes) + 1e-6
        assert len({document.id for document in found}) == len(found) > 50


def test_an_id_begins_with_the_kind_and_its_text_is_of_it() -> None:
    for document in DRAWN.documents("valid"):
        kind = document.id.partition("/")[0]
        assert document.source.partition("/")[0] == kind and document.id.startswith(f"{document.source}/")
        visual = "".join("v" if is_visual(character) else "t" for character in document.text)
        assert visual.rstrip("t") == ("" if kind == "texts" else "v" * 16)
        assert visual.endswith("t") == (kind != "images")


def test_the_images_are_the_visual_tokens_of_their_pixels() -> None:
    tokenizer = DRAWN.visual_tokenizer()
    documents = {document.id: document.text for document in DRAWN.documents("test")}
    alone = {f"images/{id_}": tokenizer.encode(image) for id_, image in DRAWN.images.images("test")}
    both = {f"pairs/{id_}": tokenizer.encode(image) + text for id_, image, text in DRAWN.images.pairs("test")}
    found = {id_: text for id_, text in documents.items() if not id_.startswith("texts/")}
    assert found.items() <= (alone | both).items()
    assert sum(id_ in found for id_ in alone) > 10 and sum(id_ in found for id_ in both) > 10


def test_the_pieces_of_a_text_make_it_up() -> None:
    wanted = {f"{d.source}/{d.id}": d.text for d in DRAWN.text.documents("valid")}
    pieces: dict[str, str] = {}
    for document in DRAWN.documents("valid"):
        if document.id.startswith("texts/"):
            assert 0 < len(document.text) <= DRAWN.piece_characters
            whole = document.id.removeprefix("texts/").rpartition("/")[0]
            pieces[whole] = pieces.get(whole, "") + document.text
    last = list(pieces)[-1]  # which may lack its end
    assert len(pieces) > 2
    assert all(pieces[id_] == wanted[id_] for id_ in pieces if id_ != last) and wanted[last].startswith(pieces[last])


def test_the_visual_tokenizer_learns_from_as_many_images_of_either_kind() -> None:
    few = dataclasses.replace(DRAWN, learned_from=7, codes=30)
    images = [image for _, image in few.images.images("train")][:7]
    images += [image for _, image, _ in few.images.pairs("train")][:7]
    wanted = few.visual_tokenizer().learn(reversed(images), 30, 4).codebook
    assert np.array_equal(few.visual_tokenizer().codebook, wanted)
    assert not np.array_equal(dataclasses.replace(few, learned_from=8).visual_tokenizer().codebook, wanted)


# ---- packed ---------------------------------------------------------------------------------


def test_symbols_are_the_last_tokens_one_each(packed: PackedDataset) -> None:
    tokenizer = packed.tokenizer
    assert tokenizer.get_vocab_size() == PACKING.vocab_size
    assert len(DRAWN.symbols) == 49 and DRAWN.symbols[0] == MASK
    assert [tokenizer.token_to_id(symbol) for symbol in DRAWN.symbols] == list(range(700 - 49, 700))
    assert tokenizer.encode(DRAWN.symbols).ids == list(range(700 - 49, 700))
    learned = [str(tokenizer.id_to_token(number)) for number in range(700 - 49)]
    assert not any(set(token) & set(DRAWN.symbols) for token in learned)


def test_packed_documents_decode_to_the_image_and_its_text(packed: PackedDataset) -> None:
    for split, text in (("valid", packed.valid), ("test", packed.test)):
        documents = {document.id: document.text for document in DRAWN.documents(split)}
        assert set(text.ids) == set(documents)
        for id_, (begin, end) in zip(text.ids, pairwise(text.offsets), strict=True):
            ids = text.tokens[begin:end].tolist()
            assert packed.tokenizer.decode(ids, skip_special_tokens=False) == documents[id_]
            visual = [number for number in ids if number >= 700 - 48]
            assert len(visual) == (0 if id_.startswith("texts/") else 16) and ids[: len(visual)] == visual


def test_the_tokenizer_with_symbols_survives_saving_for_transformers(packed: PackedDataset, tmp_path: Path) -> None:
    as_transformers(packed.tokenizer).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for document in list(DRAWN.documents("valid"))[:30]:
        ids = loaded.encode(document.text, add_special_tokens=False)
        assert ids == packed.tokenizer.encode(document.text).ids
        assert loaded.decode(ids) == document.text


def test_packing_twice_gives_the_same_bytes_and_fingerprint(packed: PackedDataset, tmp_path: Path) -> None:
    again = pack(dataclasses.replace(DRAWN), PACKING, tmp_path)
    assert again.folder != packed.folder and again.fingerprint == packed.fingerprint
    assert (again.folder / "train.bin").read_bytes() == (packed.folder / "train.bin").read_bytes()
    assert packed.fingerprint["corpus"] == json.loads(json.dumps(DRAWN.fingerprint()))
    assert packed.fingerprint["corpus"]["grid"] == 4


@pytest.mark.parametrize(
    "change",
    [
        {"patch": 2},
        {"codes": 50},
        {"learned_from": 61},
        {"piece_characters": 151},
        {"images": Shapes(images_per_split=40, train_factor=4, seed=1)},
        {"images": Shapes(images_per_split=40, train_factor=5)},
        {"images": Shapes(images_per_split=41, train_factor=4)},
        {"images": Shapes(images_per_split=40, train_factor=4, side=20)},
        {"text": GeneratedCorpus(documents_per_split=20, seed=1)},
    ],
    ids=str,
)
def test_whatever_changes_the_corpus_changes_its_fingerprint(change: dict[str, Any]) -> None:
    assert dataclasses.replace(DRAWN, **change).fingerprint() != DRAWN.fingerprint()


def test_a_vocabulary_without_room_for_the_symbols_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is too small; 256 bytes") as caught:
        pack(DRAWN, dataclasses.replace(PACKING, vocab_size=257 + 48), tmp_path)
    assert "\n" not in str(caught.value)
    assert pack(DRAWN, dataclasses.replace(PACKING, vocab_size=257 + 49), tmp_path).train.max() == 257 + 48


@pytest.mark.parametrize(("name", "value"), [("patch", 0), ("codes", 0), ("learned_from", -1), ("piece_characters", 0)])
def test_a_number_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value} is not allowed"):
        MultimodalCorpus(**{name: value})


# ---- drawn images ---------------------------------------------------------------------------


def colours_in(image: Pixels) -> set[str]:
    pixels = set(map(tuple, image.reshape(-1, 3).tolist()))
    return {name for name, colour in COLOURS.items() if colour in pixels}


def shape_in(image: Pixels) -> str:
    """A triangle is narrower above than below, a circle lacks the corners of its box."""
    (colour,) = colours_in(image)
    inside = (image == np.array(COLOURS[colour])).all(axis=2)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.shape[0] == box.shape[1]
    if box.all():
        return "square"
    return "circle" if np.array_equal(box, box[::-1]) else "triangle"


@pytest.mark.parametrize("side", [8, 16, 31])
def test_every_answer_is_right_by_the_image_itself(side: int) -> None:
    asked = Counter[str]()
    for question in Shapes(side=side, images_per_split=40).questions("train"):
        assert question.image.shape == (side, side, 3)
        (colour,), shape = colours_in(question.image), shape_in(question.image)
        words = question.question.rstrip("?").split()
        if words == ["what", "is", "the", "shape"]:
            wanted = shape
        elif words == ["what", "color", "is", "the", "shape"]:
            wanted = colour
        elif words[:3] == ["is", "there", "a"] and words[4:] == ["shape"]:
            assert words[3] in COLOURS
            wanted = "yes" if words[3] == colour else "no"
        else:
            assert words[:3] == ["is", "there", "a"] and words[3] in SHAPES and len(words) == 4
            wanted = "yes" if words[3] == shape else "no"
        assert question.answer == wanted and question.question.endswith("?")
        asked[wanted] += 1
    assert set(asked) == {*COLOURS, *SHAPES, "yes", "no"}
    assert 0.4 < asked["yes"] / (asked["yes"] + asked["no"]) < 0.75


def test_the_same_seed_draws_the_same_pixels_and_another_seed_others() -> None:
    def all_of(shapes: Shapes, split: str) -> list[bytes]:
        return [image.tobytes() for _, image in shapes.images(split)]

    one = Shapes(images_per_split=20)
    for split in SPLITS:
        np.random.seed(7)  # noqa: NPY002  the global state is not drawn from
        assert all_of(one, split) == all_of(Shapes(images_per_split=20), split)
        assert len(all_of(one, split)) == 20 * (8 if split == "train" else 1)
        assert not set(all_of(one, split)) & set(all_of(Shapes(images_per_split=20, seed=1), split))


def test_the_splits_and_parts_of_drawn_images_share_none() -> None:
    shapes = Shapes(images_per_split=30)
    parts = [{image.tobytes() for _, image in shapes.images(split)} for split in SPLITS]
    parts += [{image.tobytes() for _, image, _ in shapes.pairs(split)} for split in SPLITS]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 2 * (30 + 30 + 240)


def test_pairs_are_the_questions_with_their_answers() -> None:
    shapes = Shapes(images_per_split=10)
    for (_, image, text), asked in zip(shapes.pairs("valid"), shapes.questions("valid"), strict=True):
        assert np.array_equal(image, asked.image) and text == f"{asked.question} {asked.answer}"


@pytest.mark.parametrize("of", ["images", "pairs", "questions"])
def test_a_split_that_is_not_known_is_refused(of: str, folder: Path) -> None:
    for source in (Shapes(), LocalImages(path=folder)):
        with pytest.raises(ValueError, match="split='dev' is not known"):
            next(getattr(source, of)("dev"))


# ---- images of a folder ---------------------------------------------------------------------

ODD = f"a{MASK}cat{chr(ord(MASK) + 1)} sits"


def png(seed: int, side: int = 16) -> bytes:
    pixels = np.random.RandomState(seed).randint(256, size=(side, side, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def list_files(folder: Path) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    entries = [
        {"file": path.relative_to(folder).as_posix(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in files
    ]
    (folder / "manifest.json").write_text(json.dumps({"files": entries}))


def lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode(), mtime=0))


def write_folder(folder: Path) -> None:
    """So many images that no split is empty; those of the three sources have different pixels."""
    images = folder / "images"
    images.mkdir(parents=True)
    (folder / "english").mkdir()
    for begin, split, count in ((0, "train", 30), (100, "test", 24)):
        of_cifar = pandas.DataFrame({"image": [png(begin + i) for i in range(count)]})
        of_cifar.to_parquet(images / f"cifar10-{split}.parquet")
        asked_about = [png(200 + begin + i) for i in range(count)]
        of_questions = pandas.DataFrame({"image_id": range(count), "image": asked_about})
        of_questions.to_parquet(images / f"easyvqa-{split}-images.parquet")
        asked = [
            {"image_id": i % count, "question": f"is there a {word}?", "answer": "no"}
            for i in range(2 * count)
            for word in ("cat", "dog")
        ]
        lines(images / f"easyvqa-{split}-questions.jsonl.gz", asked)
    captions = [[f"a cat number {i}", ODD] for i in range(60)]
    pandas.DataFrame({"image": [png(500 + i, side=24) for i in range(60)], "captions": captions}).to_parquet(
        images / "coco_mini_captions.parquet"
    )
    for split in SPLITS:
        for of in ("wikipedia", "books"):
            records = [{"text": f"{split} {of} {i} {ODD} and so on. " * 8} for i in range(12)]
            lines(folder / f"english/{of}-{split}.jsonl.gz", records)
    list_files(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    write_folder(made)
    return made


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


def corpus(folder: Path) -> MultimodalCorpus:
    images, text = LocalImages(path=folder, side=8), LocalCorpus(path=folder)
    return MultimodalCorpus(images=images, text=text, codes=32, patch=4)


def test_the_splits_of_a_folder_share_no_image_and_leave_none_out(folder: Path) -> None:
    source = LocalImages(path=folder, side=16)
    for of, counts in (("images", (30, 24)), ("pairs", (30, 24))):
        pixels = [{found[1].tobytes() for found in getattr(source, of)(split)} for split in SPLITS]
        assert all(pixels) and len(set.union(*pixels)) == sum(map(len, pixels))
        assert sum(map(len, pixels)) == sum(counts) + (60 if of == "pairs" else 0)
    ids = [id_ for split in SPLITS for id_, *_ in source.pairs(split)]
    assert len(ids) == 4 * (30 + 24) + 2 * 60
    of_train = [id_ for id_, *_ in source.pairs("train")]
    assert len(set(of_train)) == len(of_train)


def test_the_images_of_train_are_the_files_of_train(folder: Path) -> None:
    source = LocalImages(path=folder, side=16)
    found = {image.tobytes() for _, image in source.images("train")}
    wanted = {np.asarray(Image.open(io.BytesIO(png(i)))).tobytes() for i in range(30)}
    assert found == wanted


def test_an_image_is_scaled_by_the_mean_of_its_pixels(folder: Path) -> None:
    whole = dict(LocalImages(path=folder, side=16).images("valid"))
    for id_, small in LocalImages(path=folder, side=8).images("valid"):
        means = whole[id_].reshape(8, 2, 8, 2, 3).astype(float).mean(axis=(1, 3))
        assert small.dtype == np.uint8 and np.abs(small - means).max() <= 1


def test_questions_are_those_of_pairs_with_their_images(folder: Path) -> None:
    source = LocalImages(path=folder, side=16)
    for split in SPLITS:
        asked = Counter((q.image.tobytes(), f"{q.question} {q.answer}") for q in source.questions(split))
        paired = Counter((image.tobytes(), text) for id_, image, text in source.pairs(split) if "easyvqa" in id_)
        assert asked == paired and {text for _, text in asked} == {"is there a cat? no", "is there a dog? no"}


def test_the_order_of_a_folder_is_its_seeds_alone(own: Path, folder: Path) -> None:
    def order(path: Path, **options: Any) -> list[list[str]]:
        source = LocalImages(path=path, **options)
        return [[id_ for id_, *_ in getattr(source, of)("train")] for of in ("images", "pairs")]

    assert order(own) == order(folder)
    for first, other in zip(order(folder), order(folder, order_seed=1), strict=True):
        assert first != other and sorted(first) == sorted(other) and first != sorted(first)


def test_symbols_in_captions_and_texts_are_removed(folder: Path) -> None:
    source = corpus(folder)
    assert isinstance(source, Corpus) and source.reads_files and source.path == folder
    for split in SPLITS:
        for document in source.documents(split):
            visual = 0 if document.id.startswith("texts/") else 4
            rest = document.text[visual:]
            assert not set(rest) & set(source.symbols) and MASK not in document.text
    everything = "".join(document.text for document in source.documents("train"))
    assert "acat sits" in everything  # and what stood around them stays


def test_a_folder_packs_and_its_fingerprint_does_not_know_its_place(own: Path, folder: Path, tmp_path: Path) -> None:
    packing = dataclasses.replace(PACKING, vocab_size=320, max_train_tokens=2000)
    one, two = pack(corpus(folder), packing, tmp_path / "one"), pack(corpus(own), packing, tmp_path / "two")
    assert one.fingerprint == two.fingerprint and one.folder.name == two.folder.name
    assert np.array_equal(one.train, two.train)
    assert corpus(folder).at(own).images == corpus(own).images and corpus(folder).at(own).text == corpus(own).text
    assert str(own) not in json.dumps(two.fingerprint)


def test_the_fingerprint_names_all_files_with_their_hashes(folder: Path) -> None:
    found = LocalImages(path=folder).fingerprint()
    there = {f"images/{path.name}": path.read_bytes() for path in (folder / "images").iterdir()}
    assert found["files"] == {name: hashlib.sha256(raw).hexdigest() for name, raw in there.items()}
    assert len(there) == 7 and found == json.loads(json.dumps(found))
    for options in ({"side": 16}, {"order_seed": 1}):
        assert LocalImages(path=folder, **options).fingerprint() != found


FILES = {
    "cifar10-train.parquet": ("images", "train"),
    "cifar10-test.parquet": ("images", "valid"),
    "easyvqa-train-images.parquet": ("pairs", "train"),
    "easyvqa-test-images.parquet": ("questions", "test"),
    "easyvqa-train-questions.jsonl.gz": ("questions", "train"),
    "easyvqa-test-questions.jsonl.gz": ("pairs", "valid"),
    "coco_mini_captions.parquet": ("pairs", "test"),
}


def changed(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])


@pytest.mark.parametrize("damage", [changed, Path.unlink], ids=["changed", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_changed_or_missing_is_named(name: str, damage: Callable[[Path], None], own: Path) -> None:
    of, split = FILES[name]
    source = LocalImages(path=own)
    list(getattr(source, of)(split))  # read once, so that nothing is left that remembers it
    damage(own / "images" / name)
    for use in (lambda: list(getattr(source, of)(split)), source.fingerprint):
        with pytest.raises(UserError, match=rf"images/{name} is (damaged|missing)") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_file_that_the_manifest_does_not_list_is_not_read(own: Path) -> None:
    (own / "manifest.json").write_text('{"files": []}')
    with pytest.raises(UserError, match=r"cifar10-train\.parquet is not listed in manifest\.json"):
        next(LocalImages(path=own).images("train"))


def test_a_file_that_was_replaced_with_its_manifest_is_read_anew(own: Path) -> None:
    """As where a notebook goes on after the data were fetched again."""
    source = LocalImages(path=own, side=16)
    before = {image.tobytes() for _, image in source.images("train")}
    pandas.DataFrame({"image": [png(900 + i) for i in range(30)]}).to_parquet(own / "images/cifar10-train.parquet")
    list_files(own)
    assert not before & {image.tobytes() for _, image in source.images("train")}


def test_without_a_folder_the_variable_says_where_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MHMOE_DATA", str(folder))
    assert len(list(LocalImages().images("train"))) == 30
    monkeypatch.delenv("MHMOE_DATA")
    for use in (lambda: next(LocalImages().images("train")), LocalImages().fingerprint):
        with pytest.raises(UserError, match="no data folder is given; set MHMOE_DATA"):
            use()


@pytest.mark.parametrize("package", ["pandas", "PIL"])
def test_without_the_packages_that_read_images_they_are_named(
    package: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"images need pandas, pyarrow and Pillow .*pip install") as caught:
        next(LocalImages(path=own).images("train"))
    assert "\n" not in str(caught.value)
    assert len(list(Shapes(images_per_split=1).images("valid"))) == 1  # which need none
