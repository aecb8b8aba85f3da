import numpy as np
import pytest
import torch
from PIL import Image

from easybn.paper.stacked_images import GAP, MARGIN, Pairs, save_picture


@pytest.mark.parametrize("channels", [1, 3])
def test_originals_above_copies_above_amplified_differences(channels, tmp_path):
    originals = torch.randint(20, 230, (6, channels, 32, 40)).byte()
    change = torch.randint(-5, 6, (6, channels, 32, 40))
    change[:, 0, 0, 0] = 5
    labels = torch.tensor([1, 0, 1, 0, 1, 1])
    pairs = Pairs(originals, (originals + change).byte(), labels)
    save_picture(tmp_path / "new" / "p.png", pairs, ["a", "b"], "easy 5/255, 1 step")
    with Image.open(tmp_path / "new" / "p.png") as image:
        assert image.text["Description"] == "easy 5/255, 1 step; difference x 25"
        pixels = np.asarray(image)
    for label, indices in enumerate(([1, 3], [0, 2, 4, 5])):
        for column, i in enumerate(indices):
            for row, tile in enumerate((pairs.originals, pairs.copies, 128 + 25 * change)):
                top = label * (3 * (64 + GAP) + 2 * GAP) + row * (64 + GAP) + GAP
                left = MARGIN + column * (80 + GAP)
                seen = pixels[top : top + 64 : 2, left : left + 80 : 2]  # every pixel is shown as 2 x 2
                expected = tile[i].expand(3, -1, -1).permute(1, 2, 0).numpy()
                assert np.array_equal(seen, expected)
    assert list(tmp_path.glob("new/*")) == [tmp_path / "new" / "p.png"]


def test_no_change_is_grey(tmp_path):
    originals = torch.randint(0, 256, (4, 1, 8, 8)).byte()
    save_picture(tmp_path / "p.png", Pairs(originals, originals, torch.tensor([0, 1, 0, 1])), ["a", "b"], "untouched")
    with Image.open(tmp_path / "p.png") as image:
        assert image.text["Description"] == "untouched; difference x 1"
        top = 2 * (64 + GAP) + GAP
        assert set(np.asarray(image)[top : top + 64, MARGIN : MARGIN + 64].flatten()) == {128}
