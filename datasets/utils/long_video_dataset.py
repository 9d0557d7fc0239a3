"""Base of the score streams whose videos last minutes: a clip is a number of windows spread over the recording."""

from __future__ import annotations

from datasets.utils.annotations import Performance
from datasets.utils.clips import Clip, FrameIndex
from datasets.utils.frame_sampling import Numbers, uniform_windows
from datasets.utils.recordings import Recording
from datasets.utils.video_dataset import VideoScoreDataset
from utils.errors import UsageError

WINDOW = 16


class LongVideoDataset(VideoScoreDataset):
    """`--clip_frames` frames are taken in windows of 16 neighbouring ones, evenly spread over the recording.

    A video backbone must cut them at the same places: `--window_stride 16`, which its configuration sets.
    """

    N_FRAMES = 10 * WINDOW

    def windows(self, n_frames: int) -> Numbers:
        """Positions of a clip's frames in a recording of `n_frames`.

        Raises:
            UsageError: --clip_frames is no multiple of a window.
        """
        window = min(WINDOW, self.n_clip_frames)
        if self.n_clip_frames % window:
            raise UsageError(f"--clip_frames {self.n_clip_frames}: {self.NAME} takes multiples of {WINDOW}")
        return uniform_windows(n_frames, self.n_clip_frames // window, window)

    def locate(self, performance: Performance, index: FrameIndex, margin: int) -> Clip:
        if margin:
            raise UsageError(f"--temporal_shift {margin}: {self.NAME} spreads its windows over the whole recording")
        recording = Recording(index, performance.place["recording"], performance.name)
        return recording.clip(self.windows(len(recording)))
