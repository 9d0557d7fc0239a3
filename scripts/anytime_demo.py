"""Teach a model a few images by their names, ask it with any texts, save it, load it, and go on.

    python scripts/anytime_demo.py                                                  # scikit-learn's digits
    python scripts/anytime_demo.py --images DIR --backbone clip-vit-b32 --backbone_weights FILE --ask "a cat" "a dog"
    python scripts/anytime_demo.py --images DIR --ask ... --model_file MODEL.pt     # goes on with what is there

DIR/<label>/<image>: the first --shots images of every folder are learnt, the last --tests asked about, each once under
the names of the folders and once under the texts of --ask. Half of the labels are learnt, then the model is written to
--model_file and restored into a new one, which learns the others.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Before torch is imported: see main.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from datasets.utils.evaluation_sets import label_words
from datasets.utils.image_sets import DIGITS, DigitImages
from datasets.utils.sources import UNREADABLE, class_folders, decode_image, images_of
from models.utils.open_vocabulary import OpenVocabularyModel
from models.utils.without_stream import open_vocabulary_model
from utils.args import positive, positive_number
from utils.errors import DataError, RunError, run_script

Images = dict[str, list[np.ndarray]]


def digits() -> Images:
    """scikit-learn's handwritten digits, (8, 8) uint8, by their words."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    return {word: list(images[data.target == digit]) for digit, word in enumerate(DIGITS)}


def folders(root: Path, n_first: int, n_last: int) -> Images:
    """The first and the last images of every class folder, (H, W, 3) uint8.

    Raises:
        DataError: there are no such folders, no images in one, or an image cannot be read.
    """
    classes = class_folders(root)
    files, labels = images_of(root, classes)
    found: Images = {}
    for label, name in enumerate(classes):
        names = [files[i] for i in np.flatnonzero(labels == label)]
        found[label_words(name)] = [read(root / file) for file in names[:n_first] + names[n_first:][-n_last:]]
    return found


def read(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        return decode_image(path.read_bytes())
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def teach(model: OpenVocabularyModel, images: Images, labels: Sequence[str], shots: int) -> None:
    """Learn the first images of some labels, one label after the other."""
    for label in labels:
        shown = images[label][:shots]
        model.learn(shown, [label] * len(shown))
    print(f"learnt {', '.join(labels)}: {shots} images each at most")


def ask(model: OpenVocabularyModel, images: Images, texts: Sequence[str], shots: int, tests: int) -> None:
    """Print what the model takes images that it has not learnt for."""
    for label, all_images in images.items():
        shown = all_images[shots:][-tests:]
        if shown:
            print(f"  {label}: {', '.join(model.predict(shown, texts))}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--images", type=Path, help="folder of folders of images (default: scikit-learn's digits)")
    parser.add_argument("--shots", type=positive, default=5, help="images of every label to learn")
    parser.add_argument("--tests", type=positive, default=3, help="images of every label to ask about")
    parser.add_argument("--ask", nargs="+", metavar="TEXT", help="texts to choose among besides the labels themselves")
    parser.add_argument("--model", default="anytimecl", help="an open-vocabulary method")
    parser.add_argument("--backbone", default="clip-tiny", help="a network of CLIP's kind")
    parser.add_argument("--backbone_weights", help="file of its weights")
    parser.add_argument(
        "--lr", type=positive_number, help="learning rate (default: the method's, for a CLIP of full size)"
    )
    parser.add_argument("--model_file", type=Path, help="where the model is kept (default: nowhere)")
    args = parser.parse_args(argv)

    def build() -> OpenVocabularyModel:
        options: dict[str, Any] = {} if args.lr is None else {"lr": args.lr}
        if not args.images:
            options["prompts"] = list(DigitImages.PROMPTS)
        return open_vocabulary_model(args.model, args.backbone, args.backbone_weights, **options)

    try:
        images = folders(args.images, args.shots, args.tests) if args.images else digits()
        labels = list(images)
        first, others = labels[: len(labels) // 2], labels[len(labels) // 2 :]
        questions = [labels, args.ask] if args.ask else [labels]
        model = build()
        with tempfile.TemporaryDirectory() as folder:
            file = args.model_file or Path(folder) / "model.pt"
            if file.exists():
                model.restore(file)
                print(f"going on with {file}, which knows {', '.join(model.vocabulary.names)}")
            if first:
                teach(model, images, first, args.shots)
            for texts in questions:
                print(f"asked to choose among {', '.join(texts)}:")
                ask(model, images, texts, args.shots, args.tests)
            model.save(file)
            model = build()
            model.restore(file)
            teach(model, images, others, args.shots)
            for texts in questions:
                print(f"after saving, loading and learning more, among {', '.join(texts)}:")
                ask(model, images, texts, args.shots, args.tests)
            model.save(file)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
