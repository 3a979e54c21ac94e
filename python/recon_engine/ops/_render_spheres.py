from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output

# Of weights. As in PyTorch3D, a pixel of which spheres cover less is dark.
_LEAST_TOTAL = 1.03e-6


def render_spheres(
    points: Tensor,
    radii: Tensor,
    colors: Tensor,
    camera: Tensor,
    image_size: tuple[int, int],
    gamma: float,
    max_depth: float,
    min_depth: float = 0.0,
    *,
    opacity: Tensor | None = None,
    background: Tensor | None = None,
    offset: Tensor | None = None,
    background_depth: float = 1e-6,
    orthogonal: bool = False,
    right_handed: bool = False,
    max_hits: int = 2**32 - 1,
    count_all: bool = False,
    track: int = 5,
    average: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images of spheres that blend by depth and by how near to their middle a ray passes.

    A sphere that a ray hits weighs `closeness * opacity * exp(opacity * (max_depth - depth) / (gamma * (max_depth -
    min_depth)))`, where closeness falls from 1 in its middle to 0 at its border and depth is where the ray enters; the
    background weighs `exp(background_depth / gamma)`. A pixel is the weighted mean. A sphere smaller than a pixel fills
    the pixels next to its centre. Spheres that begin outside of [min_depth, max_depth] or lie behind the camera are
    left out. Rays go from the eye through the centres of pixels; parallel ones leave the first corners of pixels, half
    a pixel to the left and above, as in PyTorch3D.

    Args:
        points: (B, N, 3) centres in the world.
        radii: (B, N) > 0.
        colors: (B, N, C), any number of channels.
        camera: (B, 4, 3) the eye, the centre of pixel (0, 0) on the sensor, and the steps from a pixel to the next to
            the right and downwards, which are at right angles and of one length. The optical axis is down x right, or
            its opposite if `right_handed`. The second vector means nothing if `orthogonal`: the eye is the centre of
            the sensor then.
        image_size: (H, W) in pixels.
        gamma: > 0; the nearest sphere alone is seen as gamma goes to 0, all are at 1.
        max_depth: of the first point of a sphere, along the ray, or along the optical axis if `orthogonal`.
        min_depth: the same.
        opacity: (B, N) in [0, 1]; 1 by default.
        background: (C,) colour; 1 by default.
        offset: (B, 2) int32, the column and row on the sensor of the image's first pixel; 0 by default.
        background_depth: where the background is, from 0 at max_depth to 1 at min_depth.
        orthogonal: rays are parallel to the optical axis instead of going through the eye.
        right_handed: the optical axis is right x down.
        max_hits: as many of the spheres that a ray hits count, in the order of the depth at which they begin.
        count_all: count the hits behind what can be seen as well.
        track: K, how many of a pixel's hits get gradients: those nearest to the camera.
        average: gradients are means instead of sums: those of a sphere over the pixels that track it; those of the
            camera over the spheres at least two pixels wide, each by its mean over pixels times a thousandth of the
            pixels in its bounding box.

    Returns:
        image: (B, H, W, C). Differentiable in points, radii, colors, opacity, camera and background.
        stats: (B, H, W, 4) the largest exponent, the sum of weights relative to it, the largest depth at which a sphere
            that is hit begins (-1 without), the number of hits. Not differentiable.
        ids: (B, H, W, K) int32 the tracked spheres by depth, -1 where there are fewer.
        depths: (B, H, W, K) where the ray enters them, -1 where there are fewer. Not differentiable.

    CPU and CUDA, float32 and float64; never waits for the device. On the CPU the results are the same for any number of
    threads, gradients too.

    Raises:
        ValueError: for shapes that disagree, max_depth <= min_depth, and (on the CPU) centres or cameras that are not
            finite, radii <= 0 and opacities outside of [0, 1].

    References:
        Lassner, Zollhoefer: Pulsar: Efficient Sphere-based Neural Rendering, CVPR 2021.
    """
    if opacity is None:
        opacity = torch.ones_like(radii)
    if background is None:
        background = colors.new_ones(colors.shape[-1])
    if offset is None:
        offset = torch.zeros(points.shape[0], 2, dtype=torch.int32, device=points.device)
    with torch.no_grad():
        order = _begin(points, radii, camera, orthogonal, right_handed).argsort(dim=1, stable=True)
    return _render_spheres(
        points,
        radii,
        colors,
        opacity,
        camera,
        background,
        order,
        offset,
        *image_size,
        gamma,
        min_depth,
        max_depth,
        background_depth,
        orthogonal,
        right_handed,
        max_hits,
        count_all,
        track,
        average,
    )


def _axis(right: Tensor, down: Tensor, right_handed: bool) -> Tensor:
    axis = torch.linalg.cross(down, right)
    return axis / axis.norm(dim=-1, keepdim=True) * (-1 if right_handed else 1)


def _begin(points: Tensor, radii: Tensor, camera: Tensor, orthogonal: bool, right_handed: bool) -> Tensor:
    """The depth at which each sphere begins, (B, N)."""
    eye, _, right, down = camera[:, None].unbind(2)
    seen = points - eye
    return ((seen * _axis(right, down, right_handed)).sum(-1) if orthogonal else seen.norm(dim=-1)) - radii


def _root(square: Tensor) -> Tensor:
    """The square root of positive numbers; 0 without a gradient for others."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def _scale_gradient(a: Tensor, scale: Tensor) -> Tensor:
    return a.detach() + (a - a.detach()) * scale.reshape(*scale.shape, *[1] * (a.ndim - scale.ndim))


class _Frame:
    """Cameras, one for each sphere, and the spheres as they see them. All are (B, N, ...)."""

    def __init__(
        self,
        points: Tensor,
        camera: Tensor,
        offset: Tensor,
        height: int,
        width: int,
        orthogonal: bool,
        right_handed: bool,
    ) -> None:
        self.eye, first, self.right, self.down = camera.unbind(2)
        self.x, self.y = (side / side.norm(dim=-1, keepdim=True) for side in (self.right, self.down))
        self.z = _axis(self.right, self.down, right_handed)
        self.seen = points - self.eye
        column, row = offset.to(points)[:, None, :, None].unbind(2)
        if orthogonal:
            self.corner = self.right * (column - (width - 1) / 2) + self.down * (row - (height - 1) / 2)
        else:
            self.corner = first - self.eye + self.right * column + self.down * row
        self.depth = (self.seen * self.z).sum(-1)
        self.distance = self.depth if orthogonal else self.seen.norm(dim=-1)
        self.pixel = self.right.norm(dim=-1)
        self.focal = (self.corner * self.z).sum(-1)

    def outlines(self, radii: Tensor, orthogonal: bool) -> list[tuple[Tensor, Tensor]]:
        """The first and the last column of each sphere's outline, and its rows, (B, N) each, not rounded."""
        ranges = []
        for axis, step in ((self.x, self.right), (self.y, self.down)):
            across, origin = (self.seen * axis).sum(-1), (self.corner * axis).sum(-1)
            if orthogonal:
                ends = torch.stack([across - radii, across + radii])
            else:
                # A circle of this radius, seen from the eye, spans angle -+ half.
                angle = torch.atan2(across, self.depth)
                half = torch.asin((radii / torch.hypot(across, self.depth)).clamp(max=1))
                ends = torch.stack([angle - half, angle + half])
                ends = torch.where(ends.abs() < torch.pi / 2, ends.tan() * self.focal, ends.sign() * 1e9)
            low, high = (ends - origin) / step.norm(dim=-1)
            ranges.append((low, high))
        return ranges

    def importance(self, radii: Tensor, height: int, width: int, orthogonal: bool) -> Tensor:
        """A thousandth of the pixels of each sphere's bounding box; 0 if it is less than 3 pixels wide or high."""
        sides = [
            (high.ceil() + 1).clamp(max=size) - low.clamp(min=0).floor()
            for (low, high), size in zip(self.outlines(radii, orthogonal), (width, height), strict=True)
        ]
        return torch.where((sides[0] >= 3) & (sides[1] >= 3), sides[0] * sides[1] * 1e-3, 0)


def _reference(
    points: Tensor,
    radii: Tensor,
    colors: Tensor,
    opacity: Tensor,
    camera: Tensor,
    background: Tensor,
    order: Tensor,
    offset: Tensor,
    height: int,
    width: int,
    gamma: float,
    min_depth: float,
    max_depth: float,
    background_depth: float,
    orthogonal: bool,
    right_handed: bool,
    max_hits: int,
    count_all: bool,
    track: int,
    average: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memory: pixels times spheres."""
    cameras = camera[:, None].expand(-1, points.shape[1], -1, -1)
    numbers = (gamma, min_depth, max_depth, background_depth, orthogonal, max_hits, track)

    def blend(points: Tensor, radii: Tensor, colors: Tensor, opacity: Tensor, cameras: Tensor) -> tuple[Tensor, ...]:
        frame = _Frame(points, cameras, offset, height, width, orthogonal, right_handed)
        return _blend(frame, radii, colors, opacity, background, order, height, width, *numbers)

    if average:
        with torch.no_grad():
            ids = blend(points, radii, colors, opacity, cameras)[2]
            pixels = (ids.flatten(1, 3)[:, None] == torch.arange(points.shape[1], device=ids.device)[:, None]).sum(-1)
            mean = torch.where(pixels > 0, 1 / pixels.clamp(min=1).to(radii), 1)
            frame = _Frame(points, cameras, offset, height, width, orthogonal, right_handed)
            share = frame.importance(radii, height, width, orthogonal) * mean * (pixels > 0)
            share = share / (share > 0).sum(1, keepdim=True).clamp(min=1)
        points, radii, colors, opacity = (_scale_gradient(a, mean) for a in (points, radii, colors, opacity))
        cameras = _scale_gradient(cameras, share)
    image, stats, ids, depths = blend(points, radii, colors, opacity, cameras)
    return image, stats.detach(), ids, depths.detach()


def _hits(
    frame: _Frame,
    radii: Tensor,
    order: Tensor,
    height: int,
    width: int,
    min_depth: float,
    max_depth: float,
    orthogonal: bool,
    max_hits: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the ray of a pixel hits a sphere and counts, how close to its middle, and where: (B, N, H, W) each."""

    def over_pixels(a: Tensor) -> Tensor:
        return a[:, :, None, None]

    shift = 0.5 if orthogonal else 0.0
    column = torch.arange(width, device=radii.device, dtype=radii.dtype)[:, None] - shift
    row = torch.arange(height, device=radii.device, dtype=radii.dtype)[:, None, None] - shift
    place = over_pixels(frame.corner) + over_pixels(frame.right) * column + over_pixels(frame.down) * row
    radius, pixel = over_pixels(radii), over_pixels(frame.pixel).detach()
    distance = over_pixels(torch.where(frame.distance > 0, frame.distance, 1))
    if orthogonal:
        a, b = (((over_pixels(frame.seen) - place) * over_pixels(axis)).sum(-1) for axis in (frame.x, frame.y))
        apart2 = nearest2 = a.square() + b.square()
        along, reach = distance, pixel * (0.5 + 1e-6)
        full = (radius < pixel) & ((a - pixel / 2).abs() < reach) & ((b - pixel / 2).abs() < reach)
    else:
        ray = place / place.norm(dim=-1, keepdim=True)
        apart2 = (over_pixels(frame.seen) - ray * distance[..., None]).square().sum(-1)
        along, nearest2 = distance - apart2 / (2 * distance), apart2 * (1 - apart2 / (4 * distance.square()))
        pixel = pixel * distance.detach() / over_pixels(frame.focal).detach()
        full = (radius < pixel) & (apart2 < (0.75 * pixel).square())
        # Only rays between the pixels around the outline: at the border of a wide picture others are close too.
        for (low, high), at in zip(frame.outlines(radii, orthogonal), (column[:, 0], row[..., 0]), strict=True):
            full = full & (over_pixels(low - 1) < at) & (at < over_pixels(high + 1))
    begins = frame.distance - radii
    drawn = (begins >= min_depth) & (begins <= max_depth) & (frame.depth >= 1e-6 * frame.seen.norm(dim=-1))
    if orthogonal:  # spheres that end before the centres of the first column or row are not drawn, as in PyTorch3D
        for axis in (frame.x, frame.y):
            drawn = drawn & (((frame.seen - frame.corner) * axis).sum(-1) + radii > 0)
    hit = over_pixels(drawn) & ((apart2 <= radius.square()) | full)
    by_order = order[:, :, None, None].expand_as(hit)
    candidates = hit.gather(1, by_order)
    hit = torch.zeros_like(hit).scatter(1, by_order, candidates & (candidates.cumsum(1) <= max_hits))
    closeness = torch.where(full, 1, (1 - _root(apart2) / radius).clamp(min=0))
    return hit, closeness, along - _root(radius.square() - nearest2)


def _tracked(hit: Tensor, depth: Tensor, order: Tensor, track: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first hits of each pixel: ids and depths (B, K, H, W), and which spheres they are, (B, N, H, W)."""
    B, N, height, width = hit.shape
    by_order = order[:, :, None, None].expand_as(hit)
    nearest = torch.where(hit, depth.detach(), torch.inf).gather(1, by_order).sort(dim=1, stable=True)
    missing = [0] * 4 + [0, max(track - N, 0)]
    depths = torch.nn.functional.pad(nearest.values[:, :track], missing, value=torch.inf)
    ids = torch.nn.functional.pad(by_order.gather(1, nearest.indices)[:, :track], missing, value=-1)
    ids = torch.where(depths.isinf(), -1, ids)
    tracked = hit.new_zeros(B, N + 1, height, width).scatter(1, torch.where(ids < 0, N, ids), True)[:, :-1]
    return ids, torch.where(depths.isinf(), -1, depths), tracked


def _blend(
    frame: _Frame,
    radii: Tensor,
    colors: Tensor,
    opacity: Tensor,
    background: Tensor,
    order: Tensor,
    height: int,
    width: int,
    gamma: float,
    min_depth: float,
    max_depth: float,
    background_depth: float,
    orthogonal: bool,
    max_hits: int,
    track: int,
) -> tuple[Tensor, ...]:
    hit, closeness, depth = _hits(frame, radii, order, height, width, min_depth, max_depth, orthogonal, max_hits)
    opacity = opacity[:, :, None, None]
    exponent = (max_depth - depth) / ((max_depth - min_depth) * gamma) * opacity
    share = closeness * opacity
    least = share.new_full((share.shape[0], 1, height, width), background_depth / gamma)
    largest = torch.cat([torch.where(hit & (share > 0), exponent, least), least], 1).amax(1).detach()
    below = exponent - largest[:, None]
    below = torch.where(below > 0, 0, below)  # unlike clamp, with a gradient of 1 at 0 in every torch
    weight = torch.where(hit, share * below.exp(), 0)
    ids, depths, tracked = _tracked(hit, depth, order, track)
    weight = torch.where(tracked, weight, weight.detach())
    shown = weight[..., None] * colors[:, :, None, None]
    shown = torch.where(tracked[..., None], shown, shown.detach())
    clear = (background_depth / gamma - largest).exp()
    total = weight.sum(1) + clear
    image = (shown.sum(1) + clear[..., None] * background) / total[..., None].clamp(min=_LEAST_TOTAL)
    begins = torch.where(hit, (frame.distance - radii)[:, :, None, None], -1)
    farthest = torch.cat([begins, torch.full_like(least, -1)], 1).amax(1)
    stats = torch.stack([largest, total, farthest, hit.sum(1).to(total)], -1)
    return image, stats, ids.permute(0, 2, 3, 1).int(), depths.permute(0, 2, 3, 1)


def _outputs(
    points: Tensor,
    radii: Tensor,
    colors: Tensor,
    opacity: Tensor,
    camera: Tensor,
    background: Tensor,
    order: Tensor,
    offset: Tensor,
    height: int,
    width: int,
    gamma: float,
    min_depth: float,
    max_depth: float,
    background_depth: float,
    orthogonal: bool,
    right_handed: bool,
    max_hits: int,
    count_all: bool,
    track: int,
    average: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pixels = (points.shape[0], height, width)
    return (
        empty_output(points, (*pixels, colors.shape[2])),
        empty_output(points, (*pixels, 4)),
        empty_output(points, (*pixels, track), torch.int32),
        empty_output(points, (*pixels, track)),
    )


_render_spheres = Op("render_spheres", _outputs, _reference, optional_grads=True, reads=[0, 1, 2])
