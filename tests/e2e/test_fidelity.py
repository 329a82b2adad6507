"""Random trees of every inode kind come through snapshots with every byte and all metadata, over generations."""

import json
import random
from pathlib import Path

import pytest
from beam import Image
from commands import run

TREE = (Path(__file__).parent / "tree.py").read_text()


def tree(sandbox, *arguments: str) -> str:
    result = run(sandbox, "python3", "/opt/tree.py", *arguments, cwd="/", timeout=120)
    assert result.code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("seed", [1, 2, random.SystemRandom().randrange(1 << 32)])
def test_trees_come_through(new_sandbox, seed):
    sandbox = new_sandbox()
    sandbox.fs.write_text("/opt/tree.py", TREE)
    for generation in range(3):
        tree(sandbox, "change", "/tree", f"{seed}-{generation}")
        # Lower layers too: deleting, renaming and replacing what the base image brought.
        tree(sandbox, "disturb", "/usr/share", f"{seed}-{generation}")
        before = [json.loads(tree(sandbox, "describe", root)) for root in ("/tree", "/usr/share")]
        image_id = sandbox.create_image_from_filesystem()
        sandbox.terminate()
        sandbox = new_sandbox(image=Image.from_id(image_id))
        after = [json.loads(tree(sandbox, "describe", root)) for root in ("/tree", "/usr/share")]
        for old, new in zip(before, after, strict=True):
            differing = {
                path: (old.get(path), new.get(path))
                for path in old.keys() | new.keys()
                if old.get(path) != new.get(path)
            }
            assert differing == {}, f"seed {seed}, generation {generation}"
        assert len(before[0]) > 50
