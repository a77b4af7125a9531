"""Triton kernels. Each reads what it needs once and writes what it makes once; sums are in fp32 whatever the tensors are.

Rows and channels: a tensor [..., c] is rows of c channels next to each other in memory. The only file that names Triton, which is there
where torch has a GPU.
"""

import triton
import triton.language as tl


@triton.jit
def quick_gelu_forward(x, out, size, block: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    value = tl.load(x + places, mask=places < size).to(tl.float32)
    tl.store(out + places, value * tl.sigmoid(1.702 * value), mask=places < size)


@triton.jit
def quick_gelu_backward(x, grad_out, grad_x, size, block: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    value = tl.load(x + places, mask=places < size).to(tl.float32)
    incoming = tl.load(grad_out + places, mask=places < size).to(tl.float32)
    tl.store(grad_x + places, incoming * _slope(value), mask=places < size)


@triton.jit
def _slope(x):
    """Derivative of quick GELU."""
    share = tl.sigmoid(1.702 * x)
    return share + 1.702 * x * share * (1 - share)


@triton.jit
def temporal_forward(x, taps, bias, out, frames, width, block: tl.constexpr):
    """A program: all frames of one place in one clip. It holds a frame and its two neighbours, and reads each frame once."""
    channels = tl.arange(0, block)
    inside = channels < width
    past_tap = tl.load(taps + 3 * channels, mask=inside).to(tl.float32)
    tap = tl.load(taps + 3 * channels + 1, mask=inside).to(tl.float32)
    next_tap = tl.load(taps + 3 * channels + 2, mask=inside).to(tl.float32)
    shift = tl.load(bias + channels, mask=inside).to(tl.float32)
    first = tl.program_id(0).to(tl.int64) * frames * width + channels
    past = tl.zeros([block], tl.float32)
    now = tl.load(x + first, mask=inside).to(tl.float32)
    for frame in range(frames):
        following = tl.load(x + first + (frame + 1) * width, mask=inside & (frame + 1 < frames), other=0.0).to(tl.float32)
        total = shift + past * past_tap + now * tap + following * next_tap
        tl.store(out + first + frame * width, total * tl.sigmoid(1.702 * total), mask=inside)
        past, now = now, following


@triton.jit
def temporal_backward(x, taps, bias, grad_out, grad_x, grad_taps, grad_bias, places, frames, width, block: tl.constexpr):
    """A program: every so-manieth place, whose gradients of taps [3, c] and bias [c] it sums up."""
    program, channels = tl.program_id(0), tl.arange(0, block)
    inside = channels < width
    past_tap = tl.load(taps + 3 * channels, mask=inside, other=0.0).to(tl.float32)
    tap = tl.load(taps + 3 * channels + 1, mask=inside, other=0.0).to(tl.float32)
    next_tap = tl.load(taps + 3 * channels + 2, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channels, mask=inside, other=0.0).to(tl.float32)
    none = tl.zeros([block], tl.float32)
    past_sum, now_sum, next_sum, bias_sum = none, none, none, none
    for place in range(program, places, tl.num_programs(0)):
        first = tl.cast(width, tl.int64) * frames * place + channels
        past, now = none, tl.load(x + first, mask=inside, other=0.0).to(tl.float32)
        # Gradients of the sums two frames ago, and one. Each a value of its own: of two names for one, Triton carries only the last through
        # the loop, since the other has not changed after its first look at the body.
        before_last, last = tl.zeros([block], tl.float32), tl.zeros([block], tl.float32)
        for frame in range(frames):
            following = tl.load(x + first + (frame + 1) * width, mask=inside & (frame + 1 < frames), other=0.0).to(tl.float32)
            incoming = tl.load(grad_out + first + frame * width, mask=inside, other=0.0).to(tl.float32)
            gradient = incoming * _slope(shift + past * past_tap + now * tap + following * next_tap)
            # The frame before this one is the past of this one, the present of its own sum, the future of the sum before.
            behind = gradient * past_tap + last * tap + before_last * next_tap
            tl.store(grad_x + first + (frame - 1) * width, behind, mask=inside & (frame > 0))
            past_sum += gradient * past
            now_sum += gradient * now
            next_sum += gradient * following
            bias_sum += gradient
            past, now = now, following
            before_last, last = last, gradient
        tl.store(grad_x + first + (frames - 1) * width, last * tap + before_last * next_tap, mask=inside)
    tl.store(grad_taps + (3 * program) * width + channels, past_sum, mask=inside)
    tl.store(grad_taps + (3 * program + 1) * width + channels, now_sum, mask=inside)
    tl.store(grad_taps + (3 * program + 2) * width + channels, next_sum, mask=inside)
    tl.store(grad_bias + program * width + channels, bias_sum, mask=inside)


@triton.jit
def add_norm_forward(
    x, branch, shown, weight, bias, total, out, mean, spread, columns, width, eps,
    adds: tl.constexpr, shows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """A program: one row. `shown`: [rows / columns], what a row's branch is multiplied with."""
    row = tl.program_id(0)
    channels = tl.arange(0, block)
    inside = channels < width
    first = row.to(tl.int64) * width + channels
    value = tl.load(x + first, mask=inside, other=0.0).to(tl.float32)
    if adds:
        added = tl.load(branch + first, mask=inside, other=0.0).to(tl.float32)
        if shows:
            added *= tl.load(shown + row // columns).to(tl.float32)
        kept = (value + added).to(total.dtype.element_ty)
        tl.store(total + first, kept, mask=inside)
        value = kept.to(tl.float32)  # the norm is of what is kept
    average = tl.sum(value, axis=0) / width
    centred = tl.where(inside, value - average, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / width + eps)
    scaled = centred * inverse * tl.load(weight + channels, mask=inside).to(tl.float32)
    tl.store(out + first, scaled + tl.load(bias + channels, mask=inside).to(tl.float32), mask=inside)
    tl.store(mean + row, average)
    tl.store(spread + row, inverse)


@triton.jit
def add_norm_backward(
    total, mean, spread, weight, shown, grad_out, grad_total, grad_x, grad_branch, grad_weight, grad_bias, rows, columns, width,
    goes_on: tl.constexpr, shows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """A program: every so-manieth row, whose gradients of weight and bias it sums up. `goes_on`: the sum has a gradient of its own."""
    program, channels = tl.program_id(0), tl.arange(0, block)
    inside = channels < width
    scale = tl.load(weight + channels, mask=inside, other=0.0).to(tl.float32)
    weight_sum, bias_sum = tl.zeros([block], tl.float32), tl.zeros([block], tl.float32)
    for row in range(program, rows, tl.num_programs(0)):
        first = tl.cast(width, tl.int64) * row + channels
        inverse = tl.load(spread + row)
        value = tl.load(total + first, mask=inside, other=0.0).to(tl.float32)
        normal = tl.where(inside, (value - tl.load(mean + row)) * inverse, 0.0)
        incoming = tl.load(grad_out + first, mask=inside, other=0.0).to(tl.float32)
        scaled = incoming * scale
        along = tl.sum(scaled * normal, axis=0) / width
        gradient = (scaled - normal * along - tl.sum(scaled, axis=0) / width) * inverse
        if goes_on:
            gradient += tl.load(grad_total + first, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_x + first, gradient, mask=inside)
        if shows:
            tl.store(grad_branch + first, gradient * tl.load(shown + row // columns).to(tl.float32), mask=inside)
        weight_sum += incoming * normal
        bias_sum += incoming
    tl.store(grad_weight + program * width + channels, weight_sum, mask=inside)
    tl.store(grad_bias + program * width + channels, bias_sum, mask=inside)


@triton.jit
def select_rows(x, index, out, batch_stride, sequence_stride, head_stride, asked, heads, width, block: tl.constexpr):
    """A program: one row [heads, width] of the output, from x [s, b, heads, width], whose last axis alone need be contiguous."""
    place = tl.program_id(0).to(tl.int64)
    channels = tl.arange(0, block)
    inside = channels < heads * width
    row = tl.load(index + place % asked)
    first = x + (place // asked) * sequence_stride + row * batch_stride
    value = tl.load(first + (channels // width) * head_stride + channels % width, mask=inside)
    tl.store(out + place * heads * width + channels, value, mask=inside)
