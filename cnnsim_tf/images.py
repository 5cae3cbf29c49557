"""How images lie in arrays: grey ones as [N, S, S], colour ones as [N, S, S, 3], red, green and blue last."""

from typing import Any


def image_shape(side: int, channels: int) -> tuple[int, ...]:
    """Return the shape of one image: (side, side) if it is grey, of one channel, and (side, side, channels) if not."""
    return (side, side) if channels == 1 else (side, side, channels)


def channels_of(images: Any) -> int:
    """Return how many channels images [N, S, S] or [N, S, S, C] have, an array or a tensor."""
    return 1 if len(images.shape) == 3 else int(images.shape[3])


def with_channels(images: Any) -> Any:
    """Return images [N, S, S] or [N, S, S, C], an array or a tensor, as Keras's layers take them: [N, S, S, 1 or C]."""
    return images[..., None] if len(images.shape) == 3 else images
