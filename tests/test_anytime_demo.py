"""The demonstration script, on small folders of images."""

import numpy as np
import pytest
from PIL import Image

from scripts.anytime_demo import main


@pytest.fixture
def images(tmp_path):
    draw = np.random.default_rng(0)
    for name in ("red_things", "blue_things"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for i in range(4):
            # Of different sizes and shapes.
            Image.fromarray(draw.integers(0, 255, (10 + i, 12, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "images"


def test_it_learns_asks_saves_loads_and_goes_on(images, tmp_path, capsys):
    file = tmp_path / "model.pt"
    line = ["--images", str(images), "--shots", "2", "--tests", "1", "--ask", "a sea", "a rose"]
    assert main([*line, "--model_file", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "learnt blue things" in shown
    assert "among a sea, a rose" in shown
    assert "after saving, loading and learning more" in shown
    assert main([*line, "--model_file", str(file)]) == 0
    assert "which knows blue things, red things" in capsys.readouterr().out


def test_what_is_wrong_is_said_without_a_traceback(images, tmp_path, capsys):
    assert main(["--images", str(tmp_path / "nowhere")]) == 3
    assert "no folder" in capsys.readouterr().err
    (images / "blue_things" / "0.png").write_bytes(b"no image")
    assert main(["--images", str(images)]) == 3
    assert "0.png" in capsys.readouterr().err
    assert main(["--model", "er"]) == 2
    assert "open-vocabulary" in capsys.readouterr().err
