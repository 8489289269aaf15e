"""Where every value of a block lives in a CUDA kernel: whole, a chunk at a time, in registers, or in the stream."""

from __future__ import annotations

from math import gcd, lcm

from blockfuse.integers import round_up
from blockfuse.machine.groups import GroupBlock, block_steps
from blockfuse.plan.cuda import Home
from blockfuse.plan.cuda_chunks import chunked_with_last
from blockfuse.plan.cuda_groups import is_sum, narrow_block, wide_block
from blockfuse.plan.cuda_limits import CORE, Limits, divisor, in_rows, multiples, share, tiling
from blockfuse.plan.footprint import Footprint
from blockfuse.plan.units import Folded, Term, Unit

HALF = 2  # bytes that limits count an element as, whatever its type
_LARGE_TILE = 64 * 1024  # bytes: a hidden value above this lives a chunk at a time
_MAX_SUMS = 96  # float32 registers for the sums of a value that is made chunk by chunk
_MAX_WHOLE_SUMS = 128  # the same where all channels together save reading the operand again
_MAX_STREAMED_SUMS = 144  # the same where chunks mean that the input is read again
_MAX_PASS = 128  # channels of one DEPTHWISE, REDUCE, MAP
_CHANNEL_BY_CHANNEL = {"border", "depthwise", "map", "norm", "pool"}  # kinds of units
_CHAIN_CHUNK = 32  # channels of a value in registers


def is_streamable(folded: Folded, unit: Unit, term: Term) -> bool:
    """Whether an input can come with the weights of a term: all that its window covers, or the pixels it reads."""
    return is_sum(folded, unit) and (len(unit.terms) == 1 or reads_pixels(term))


def reads_pixels(term: Term) -> bool:
    """Whether a term reads one pixel for every pixel it makes."""
    return term.window.taps == 1 and not term.window.has_padding


class Homes:
    """The decisions, value by value; later ones see earlier ones.

    Attributes:
        cores: Channels of every value that a CTA makes, rounded up to what its readers and its maker work on together.
        found: The homes so far.
    """

    def __init__(self, folded: Folded, prints: list[Footprint], warps: int, limits: Limits, split: int = 1) -> None:
        self.folded, self.prints, self.warps, self.limits, self.split = folded, prints, warps, limits, split
        if "alignments" not in folded.facts:
            folded.facts["alignments"] = self._alignments()
        self.align: list[int] = folded.facts["alignments"]
        channels = [*(shape.channels for shape in folded.shapes[:-1]), -(-folded.shapes[-1].channels // split)]
        self.cores = [round_up(count, a) for count, a in zip(channels, self.align, strict=True)]
        self.found: dict[int, Home] = {}

    def decide(self) -> tuple[Home, ...]:
        """The home of every value."""
        for value in range(self.folded.input_count):
            self.found[value] = self._input(value)
        for unit in self.folded.units:
            if unit.kind == "contract":
                self._chunk_before(unit)
        self._chunk_last()
        for index, unit in enumerate(self.folded.units):
            value = self.folded.value(index)
            if value not in self.found:
                self.found[value] = self._whole(unit, value)
        return tuple(self.found[value] for value in range(len(self.folded.shapes)))

    def is_chained(self, unit: Unit) -> bool:
        """Whether a unit's first operand never leaves the registers."""
        return unit.kind == "contract" and self.found[unit.terms[0].source].registers

    def block(self, unit: Unit) -> GroupBlock:
        """Channels that a grouped unit works on together."""
        return narrow_block(self.folded, unit)

    def _widens(self, unit: Unit) -> bool:
        """Whether a chunk of a unit's result is not made of the same channels of its operand."""
        return self._is_narrow(unit) and self.block(unit).inputs != self.block(unit).outputs

    # ---- facts -------------------------------------------------------------------------------------------------------
    def _alignments(self) -> list[int]:
        """Of what channels of each value are a multiple; what is made channel by channel asks it of its operand."""
        found = [CORE] * len(self.folded.shapes)
        for value in reversed(range(len(found))):
            asked = [self._asked(unit, value, found[self._value(unit)]) for unit in self.folded.units]
            maker = self._maker(value)
            made = self.block(maker).outputs if maker and self._is_narrow(maker) else CORE
            found[value] = lcm(CORE, made, *asked)
        return found

    def _asked(self, unit: Unit, value: int, made: int) -> int:
        """Of what a unit wants the channels of a value to be a multiple, where those of its result are of ``made``."""
        if value not in unit.reads:
            return 1
        if value not in {term.source for term in unit.terms} or unit.kind in _CHANNEL_BY_CHANNEL:
            return made
        return made // self.block(unit).outputs * self.block(unit).inputs if self._is_narrow(unit) else 1

    def _is_narrow(self, unit: Unit) -> bool:
        return unit.kind == "grouped" and not is_sum(self.folded, unit)

    def _maker(self, value: int) -> Unit | None:
        return None if value < self.folded.input_count else self.folded.units[value - self.folded.input_count]

    def _value(self, unit: Unit) -> int:
        return self.folded.value_of(unit)

    def _readers(self, value: int) -> list[tuple[Unit, Term]]:
        return [(unit, term) for unit in self.folded.units for term in unit.terms if term.source == value]

    # ---- inputs ------------------------------------------------------------------------------------------------------
    def _input(self, value: int) -> Home:
        """Whole, unless it is large and only contractions read it (and the last unit adds it)."""
        whole = Home(self.cores[value])
        readers, pixel_bytes = self._readers(value), self._pixel_bytes(value)
        large = pixel_bytes * self.cores[value] > self.limits.resident
        adders = [unit for unit in self.folded.units if value in unit.added]
        if not large or not readers or not all(self.folded.adds_while_storing(unit) for unit in adders):
            return whole
        if not all(is_streamable(self.folded, unit, term) for unit, term in readers):
            return whole
        if len(readers) > 1 and any(wide_block(self.folded, unit) for unit, _ in readers):
            return whole
        least = max(pixel_bytes + t.window.taps * CORE * HALF for _, t in readers) * CORE  # of an item
        if len(readers) == 1 and readers[0][1].window.taps > 1 and least > self.limits.resident:
            return self._by_taps(value, *readers[0])
        per_channel = max(t.window.taps * min(self.cores[self._value(u)], _MAX_PASS) * HALF for u, t in readers)
        most = min(self.limits.arriving or self.limits.chunk, max(CORE, self.limits.item // per_channel))
        chunk = divisor(gcd(self.cores[value], *(self._summed(unit, value) for unit, _ in readers)), most)
        slots = self.limits.depth * chunk * (per_channel + pixel_bytes)
        pays = (
            chunk < self.cores[value] and slots < pixel_bytes * self.cores[value] + self.limits.depth * self.limits.item
        )
        return Home(chunk, whole=False) if pays else whole

    def _by_taps(self, value: int, unit: Unit, term: Term) -> Home:
        """What lies under one tap at a time, where the window with its halo is too large for any chunk."""
        window, made = term.window, self.prints[self._value(unit)]
        rows = (made.made_rows.size - 1) * window.stride_h + 1
        cols = (made.made_cols.size - 1) * window.stride_w + 1
        most = min(self.limits.chunk, max(CORE, self.limits.item // (rows * cols * HALF)))
        return Home(divisor(gcd(self.cores[value], self._summed(unit, value)), most), whole=False, by_taps=True)

    # ---- hidden values -----------------------------------------------------------------------------------------------
    def _chunk_before(self, unit: Unit) -> None:
        """Give the hidden values between a contraction and the one before it a chunk at a time, where that pays."""
        path = self._path(unit)
        maker = self._maker(path[-1]) if path else None
        if maker is None or not all(self._can_feed(term.source) for term in maker.terms):
            return
        step = lcm(*(self.align[value] for value in path))
        wide, hidden = path[-1], round_up(self.cores[path[0]], step)
        large = max(self.prints[v].pixels * self.cores[v] * HALF for v in path) > _LARGE_TILE
        if not large and self.cores[wide] <= self.cores[self._value(unit)]:
            return
        chunk = self._chain_chunk(unit, maker, hidden) if path == [wide] else 0
        if chunk:
            self.found[wide] = Home(chunk, whole=False, registers=True)
            return
        chunk = share(hidden, max(self.limits.chunk, step), step)
        if chunk < hidden:
            self.found |= dict.fromkeys(path, Home(chunk, whole=False))

    def _chunk_last(self) -> None:
        """Give the result of a depthwise or grouped unit, and what it is made of, the same chunks."""
        path = chunked_with_last(self.folded)
        maker = self._maker(path[-1])
        if len(path) == 1 or any(value in self.found for value in path if self._maker(value)):
            return
        if maker is None and not self._arrives_in_chunks(path[-1]):
            return
        if maker is not None and not all(self._can_feed(term.source) for term in maker.terms):
            return
        step, last = lcm(*(self.align[value] for value in path)), path[0]
        most = min(self.limits.chunk, _MAX_PASS, self._arriving(path))
        chunk = divisor(self.cores[last], max(most, step), step)
        if self.cores[last] % chunk == 0 and (maker or chunk < self.cores[path[-1]]):
            self.found |= dict.fromkeys(path, Home(chunk, whole=False)) | {last: Home(chunk)}

    def _arrives_in_chunks(self, value: int) -> bool:
        """Whether an input of which every chunk of the result needs the same channels is too much to keep."""
        if value in self.folded.block.partial:
            return False
        return self.split > 1 or self._pixel_bytes(value) * self.cores[value] > self.limits.resident

    def _arriving(self, path: list[int]) -> int:
        """Channels of which an item has room for pixels and filter; any number where the input is kept."""
        if self._maker(path[-1]):
            return _MAX_PASS
        reader = self.folded.units[path[-2] - self.folded.input_count]
        taps = reader.terms[0].window.taps if reader.kind in {"depthwise", "grouped"} else 0
        return max(CORE, self.limits.item // (self._pixel_bytes(path[-1]) + taps * HALF))

    def _pixel_bytes(self, value: int) -> int:
        """Bytes of one channel of the pixels that a CTA holds, as limits count them."""
        return self.prints[value].rows.size * self.prints[value].cols.size * HALF

    def _can_feed(self, value: int) -> bool:
        """Whether a value can be read again for every chunk: it is whole, or streamed."""
        return value < self.folded.input_count or self.found.get(value, Home(CORE)).whole

    def _chain_chunk(self, unit: Unit, maker: Unit, hidden: int) -> int:
        """Channels of a value in registers between two pointwise contractions; 0 where that cannot be."""
        (first, *others), reader = maker.terms, unit.terms[0]
        home = self.found.get(first.source, Home(CORE))
        if others or maker.added or not home.whole or self.folded.block.dtype == "float32":
            return 0
        if not (first.window.is_pointwise and reader.window.is_pointwise):
            return 0
        wide = self.cores[self._value(unit)]
        sums = in_rows(self.prints[self._value(unit)].pixels, self.warps).mb * wide // 2
        most = min(self.limits.chunk, _CHAIN_CHUNK if hidden % _CHAIN_CHUNK == 0 else 48)
        chunk = divisor(hidden, most)
        return chunk if sums <= _MAX_SUMS and chunk < hidden else 0

    def _path(self, unit: Unit) -> list[int]:
        """The values from a unit's first operand back to a contraction's result, each read by one unit alone."""
        path: list[int] = []
        value = unit.terms[0].source
        while True:
            maker = self._maker(value)
            readers = [u for u in self.folded.units if value in u.reads]
            if maker is None or len(readers) > 1 or value in readers[0].added or value in self.found:
                return []
            path.append(value)
            if maker.kind == "contract":
                return path
            if maker.kind not in {"depthwise", "grouped", "map"} or maker.added or self._widens(maker):
                return []
            if is_sum(self.folded, maker):
                return []
            value = maker.terms[0].source

    def _whole(self, unit: Unit, value: int) -> Home:
        """All channels stay; they are made at once if the sums fit into registers."""
        channels = self.cores[value]
        match unit.kind:
            case "norm":
                return Home(channels)
            case "grouped" if not is_sum(self.folded, unit):
                window, block = unit.terms[0].window, self.block(unit)
                if block.inputs != block.outputs:
                    return Home(channels)
                per_channel = block_steps(block.inputs, window.r, window.s) * 2 * CORE
                return Home(divisor(channels, self.limits.item // per_channel, self.align[value]))
            case "depthwise" | "pool" | "border" | "map":
                return Home(divisor(channels, _MAX_PASS))
        sources = [term.source for term in unit.terms]
        if any(not self.found[source].whole and source >= self.folded.input_count for source in sources):
            return Home(channels)
        most = _MAX_WHOLE_SUMS if all(self.found[source].whole for source in sources) else _MAX_STREAMED_SUMS
        wide = wide_block(self.folded, unit)
        together = gcd(channels, wide.outputs) if wide else channels
        fitting = [c for c in multiples(together) if self._sums(value, c) <= most]
        return Home(max(fitting, default=CORE))

    def _summed(self, unit: Unit, source: int) -> int:
        """Channels of an operand that a chunk of a unit's result is made of."""
        block = wide_block(self.folded, unit)
        return block.inputs if block else self.cores[source]

    def _sums(self, value: int, channels: int) -> int:
        split = tiling(self.prints[value].pixels, channels, self.warps, self.limits.engine)
        return split.mb * channels // split.wn // 2
