"""New data under the name that the model's old data has, in place: two files change, and at no moment do they disagree.

The output is published first as always, with its data under a name of its own. Then that data gets the wanted name as
well, in one step, and the model that looks for it there replaces the first one. That model, the one that was verified,
lies until then in a hidden folder, beside the same data under that name.
"""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bnfold.atomic import sync
from bnfold.onnxfile.new_files import NewFiles


class Exchange(NamedTuple):
    """`first`: the model that names the data `made`; `last`: the one that names it as `wanted`, in `folder`."""

    first: Path
    last: Path
    made: Path
    wanted: Path

    @property
    def folder(self) -> Path:
        """The hidden folder of `last`, which finds its data there."""
        return self.last.parent

    def prepare(self) -> None:
        """Make both models durable, and leave the data one name: onnx refuses what has two. Raises OSError."""
        sync(self.first)
        sync(self.last)
        (self.folder / self.wanted.name).unlink()

    def finish(self, place: Path, new: NewFiles) -> None:
        """`first` is at `place`: give the data its name, and put `last` there. Raises OSError, `first` being whole.

        A process that is killed here leaves a model and its data, and what is too much to the next one.
        """
        new.announce_again((self.folder, self.last), self.made, (self.made, self.wanted))
        with new.second_name(self.made, self.wanted) as linked:
            linked.replace(self.wanted)
            sync(self.wanted.parent)
            self.last.replace(place)
            sync(place.parent)
        self.made.unlink()


def is_possible(made: Path, wanted: Path, new: NewFiles) -> bool:
    """Whether the file system gives a file a second name, and `wanted` is a file of its own beside `made`."""
    if wanted.parent != made.parent or wanted.is_symlink() or not wanted.is_file():
        return False
    with suppress(OSError), new.second_name(made, wanted):
        return True
    return False
