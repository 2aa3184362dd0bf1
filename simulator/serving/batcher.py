"""Continuous batching: the loop of one replica, which forms a batch, waits until it is done, and forms the next.

Iterations that only decode follow from one another until something happens to the batch: a request is done, a new one
is seen, memory runs out. All iterations until then are one event, whose length is the sum of a line, so that the clock
shows the times it would show had it stopped at each.
"""

import math
from collections import deque
from collections.abc import Callable

from planner.serving import IterationShape
from simulator.serving.blocks import Blocks
from simulator.serving.front_end import FrontEnd
from simulator.serving.holding import GroupHold, hold_of
from simulator.serving.ledger import Ledger
from simulator.serving.prefixes import PrefixCache
from simulator.serving.run import Run
from simulator.serving.running import Running
from simulator.serving.spec import ReplicaSpec

NOBODY = -1


class Batcher:
    """One loop over one memory: requests come by `deliver`; `start` and `finish` bracket the batch in flight.

    `prompts_only`: requests leave with their first token, for another pool to go on with. `steps_of` gives the
    iterations in which a request makes a number of tokens, where guessing makes them fewer. `coalesces` off takes
    one iteration an event, for the tests that compare the two.
    """

    def __init__(
        self, spec: ReplicaSpec, ledger: Ledger, *, prompts_only: bool = False, coalesces: bool = True,
        steps_of: Callable[[int], int] | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.engine, self.ledger = spec, spec.engine, ledger
        self.prices = spec.stages[0]
        self.number = 0
        """Among all loops that are played together."""
        self.prompts_only, self.coalesces, self.steps_of = prompts_only, coalesces, steps_of
        self.reserves = spec.engine.reserves_full_length or steps_of is not None
        self.blocks = Blocks(spec.kv_tokens, spec.engine.block_tokens)
        named = ledger.prefixes
        self.cache = None if named is None else PrefixCache(self.blocks, named.block_tokens)
        self.front_end = FrontEnd(spec.engine)
        self.inbox: deque[tuple[float, int]] = deque()
        """(when the loop can see it, request)."""
        self.waiting: deque[int] = deque()
        self.running = Running(None if self.reserves else self.blocks)
        self.partial = NOBODY
        """The request whose prompt runs in chunks, `partial_tokens` of it being there."""
        self.partial_tokens = 0
        self.num_admitted = 0
        """Requests that hold memory."""
        self.num_outstanding = 0
        """Requests delivered and not done: what routers look at."""
        self.prefills: list[tuple[int, int, int]] = []
        """Of the batch in flight: (request, new tokens, tokens there already)."""
        self.run: Run | None = None
        self.decodes = False
        """Whether the batch in flight makes tokens of running requests."""
        self.polled_step = 0
        self.hold = hold_of(spec)
        """What lets prompts wait for others."""
        self.formed_seconds = -math.inf
        """When the batch that was in flight last began: the next was formed then, where that is done ahead."""
        self.handed_over: list[int] = []
        """Requests that another pool has begun, and that this batch goes on with."""
        self.copy_seconds = 0.0
        """Copies to and from the host that the next batch waits for."""

    def deliver(self, request: int, now: float) -> float:
        """Take a request that arrives; returns when the loop can see it."""
        seen = self.front_end.accept(now)
        self.inbox.append((seen, request))
        self.num_outstanding += 1
        return seen

    def can_start_at(self, now: float) -> float:
        """When the next batch may begin."""
        return now

    def holds(self, request: int) -> bool:
        """Whether the request fits in memory when nothing else runs."""
        return self.blocks.of(self._full_tokens(request) - 1) <= self.blocks.num_blocks

    # What a batch is made of.

    def start(self, now: float) -> float:
        """Form the next batch; returns when it ends, or, where there is none, when to look again (or infinity)."""
        self._see(now)
        mixes = self.engine.mixes_prefill
        has_room = self._make_room() if mixes else True
        is_asked = bool(self.waiting) or self.partial != NOBODY
        if is_asked and has_room and not self._holds_back():
            if isinstance(self.hold, GroupHold) and not self.engine.chunks_prefill:
                self._admit_groups(self.hold)
            else:
                self._admit(len(self.running) if mixes else 0)
        begin = now + self.copy_seconds
        self._show_handed_over(begin)
        if self.prefills:
            self.hold.let_in(self.running.step)
            self.decodes = mixes and len(self.running) > 0
            self.run = Run(begin, self._mixed_seconds(begin))
        else:
            if not mixes:
                self._make_room()
            if not len(self.running):
                return self.inbox[0][0] if self.inbox else math.inf
            self.decodes, self.run = True, self._longest_run(begin)
            if self.inbox and self.can_be_cut:
                self.cut(self.inbox[0][0])
        self.copy_seconds = 0.0
        return self.run.end_seconds(self.run.num_iterations)

    @property
    def can_be_cut(self) -> bool:
        """Whether a request that is seen now could matter before the run in flight is over.

        Behind others that wait it cannot join; but a loop that looks at intervals must have looked.
        """
        if self.run is None or self.run.num_iterations == 1:
            return False
        return not self.waiting or self.engine.poll_interval_iterations > 1 or self.hold.ever

    def cut(self, seen: float) -> float:
        """End the run in flight where the loop sees what came at `seen`; returns when that is."""
        run, interval = self.run, self.engine.poll_interval_iterations
        assert run is not None
        ahead = self.engine.schedules_ahead
        count = max(run.iterations_until(seen), 1 if interval == 1 or ahead else 0)
        count += ahead and seen > run.begin_seconds
        if interval > 1:
            count += -(self.running.step + count - self.polled_step) % interval
        run.num_iterations = min(run.num_iterations, count)
        return run.end_seconds(run.num_iterations)

    def finish(self, now: float) -> list[int]:
        """Account for the batch in flight, which ends now; returns the requests that are done."""
        run = self.run
        assert run is not None
        self.run = None
        if self.engine.schedules_ahead:
            self.formed_seconds = run.end_seconds(run.num_iterations - 1)
        num_tokens = 0.0
        if self.decodes:
            if not self.reserves and not self.prefills:
                self.blocks.grow(self.running.step, run.num_iterations)
            self.running.advance(run.num_iterations)
            num_tokens = self.running.growth * run.num_iterations
        if self.cache is not None:
            self.cache.evict()
        complete = [row[0] for row in self.prefills if row[0] != self.partial]
        visible = now + self.front_end.delay_seconds(num_tokens + len(complete), now - run.begin_seconds)
        done = [self._end(request, visible) for request in self.running.ended()] if self.decodes else []
        if self.prefills:
            done += [request for request in complete if self._end_prompt(request, visible)]
            self.prefills = []
            self.polled_step = self.running.step
        self.num_outstanding -= len(done)
        return done

    def abandon(self, now: float) -> list[int]:
        """Drop everything, as a replica that fails does; returns the requests, which keep the tokens they have."""
        if self.run is not None and self.decodes and not self.prefills:
            ended = self.run.iterations_until(now)
            ended -= self.run.end_seconds(ended) > now
            if not self.reserves:
                self.blocks.grow(self.running.step, ended)
            self.running.advance(ended)
        lost = [request for _, request in self.inbox]
        self.prefills = [row for row in self.prefills if row[0] != self.partial]
        while self.num_admitted:
            self._preempt(keeps_copy=False)
        lost = [*self.waiting, *lost]
        self.waiting.clear()
        self.inbox.clear()
        self.hold.clear()
        self.run, self.num_outstanding = None, 0
        return lost

    def _holds_back(self) -> bool:
        """Whether prompts that could run should wait for more of them."""
        if not self.hold.ever or self.partial != NOBODY:
            return False
        if not self._has_place(self.waiting[0], self._reservation(self.waiting[0])[1]):
            return False
        tokens = (self._prompt_tokens(request) for request in self.waiting)
        return self.hold.holds(self.running.step, len(self.running), tokens)

    def _show_handed_over(self, begin: float) -> None:
        """The client sees the first token of what another pool began when this one takes it."""
        for request in self.handed_over:
            self.ledger.first_token_seconds[request] = begin
        self.handed_over.clear()

    def _see(self, now: float) -> None:
        """Move what the loop can see by now from the inbox to the queue, if this is when it looks."""
        inbox, step, interval = self.inbox, self.running.step, self.engine.poll_interval_iterations
        if self.engine.schedules_ahead and (len(self.running) or self.waiting or self.partial != NOBODY):
            now = self.formed_seconds
        if not inbox or inbox[0][0] > now:
            return
        if interval > 1 and len(self.running) and (step - self.polled_step) % interval:
            return
        self.polled_step = step
        while inbox and inbox[0][0] <= now:
            request = inbox.popleft()[1]
            self.waiting.append(request)
            self.hold.arrive(request)

    def _mixed_seconds(self, begin: float) -> float:
        """Of the batch with the prompts in `prefills`, and, if it decodes too, with all running requests."""
        new, past = zip(*((new, past) for _, new, past in self.prefills), strict=True)
        if not self.decodes:
            return self.seconds_of(IterationShape(new, past), begin)
        if not self.reserves:
            self.blocks.grow(self.running.step, 1)
        return self.seconds_of(IterationShape(new, past, len(self.running), self.running.contexts), begin)

    def _longest_run(self, begin: float) -> Run:
        """Decoding until a request is done, memory runs out, or the line of prices ends."""
        running = self.running
        if not self.coalesces:
            shape = IterationShape(num_decodes=len(running), decode_context_tokens=running.contexts)
            return Run(begin, self.seconds_of(shape, begin))
        line = self.prices.decode_line(len(running), running.contexts)
        count = running.iterations_left()
        if not self.reserves:
            count = self.blocks.iterations(running.step, count)
        if self.hold.holding:
            count = min(count, self.hold.iterations_left(running.step))
        if line.last_tokens < math.inf:
            count = min(count, 1 + int((line.last_tokens - running.contexts) / running.growth))
        return Run(begin, line.seconds(running.contexts), line.seconds_per_token * running.growth, count)

    def seconds_of(self, shape: IterationShape, begin: float) -> float:
        """From `begin` to the end of one iteration."""
        return self.prices.iteration_seconds(shape)

    # Who is in it.

    def _admit(self, num_decodes: int) -> None:
        """Fill the budget of tokens: first the prompt that is under way, then those that wait, in order."""
        spec = self.spec
        budget = spec.token_budget - num_decodes
        if self.partial != NOBODY and budget > 0:
            budget -= self._run_prompt(self.partial, self.partial_tokens, budget)
        while self.waiting and budget > 0 and self.partial == NOBODY:
            request = self.waiting[0]
            cached, num_blocks = self._reservation(request)
            if not self._has_place(request, num_blocks):
                return
            new = self._prompt_tokens(request) - cached
            if not self.ledger.ready_tokens[request] and not self.engine.chunks_prefill and new > budget:
                if self.prefills or new <= spec.token_budget:
                    return
                budget = new
            budget -= self._take(request, cached, budget)

    def _admit_groups(self, groups: GroupHold) -> None:
        """The same of whole prompts, each out of its own group's share of the budget."""
        groups.open_budgets()
        for request in list(self.waiting):
            cached, num_blocks = self._reservation(request)
            if not self._has_place(request, num_blocks):
                return
            new = self._prompt_tokens(request) - cached
            if groups.takes(request, new):
                self._take(request, cached, new)

    def _take(self, request: int, cached: int, budget: int) -> int:
        """Let `request` in with as much of its prompt as `budget` holds; returns its tokens."""
        self.waiting.remove(request)
        is_ready = self.ledger.ready_tokens[request] > 0
        self._hold(request, cached)
        if not is_ready:
            return self._run_prompt(request, cached, budget)
        self._join(request)
        if math.isnan(self.ledger.first_token_seconds[request]):
            self.handed_over.append(request)
        self.ledger.ready_tokens[request] = 0
        return 0

    def _has_place(self, request: int, num_blocks: int) -> bool:
        """Whether `request` finds its blocks beside those of the next iteration, and is not one too many."""
        taken = num_blocks + self.blocks.needed(self.running.step) + (self.ledger.ready_tokens[request] > 0)
        return self.num_admitted < self.spec.max_sequences and taken <= self.blocks.free

    def _run_prompt(self, request: int, past: int, budget: int) -> int:
        """Put the prompt of `request`, or what the budget holds of it, into the batch; returns its tokens."""
        left = self._prompt_tokens(request) - past
        new = min(left, budget)
        self.prefills.append((request, new, past))
        self.partial, self.partial_tokens = (request, past + new) if new < left else (NOBODY, 0)
        return new

    def _join(self, request: int) -> None:
        """`request` has its prompt in memory and makes its next token in the next iteration that decodes."""
        made = self.ledger.made_tokens[request]
        left = self.ledger.output_tokens[request] - made
        steps = left if self.steps_of is None else self.steps_of(left)
        self.running.join(request, self.ledger.input_tokens[request] + made, left, steps)

    def _end_prompt(self, request: int, visible: float) -> bool:
        """The prompt is through and has made a token; returns whether that was all there was to do here."""
        ledger = self.ledger
        made = ledger.made_tokens[request] = ledger.made_tokens[request] + 1
        if math.isnan(ledger.first_token_seconds[request]):
            ledger.first_token_seconds[request] = visible
        if self.prompts_only or made == ledger.output_tokens[request]:
            self._release(request, ledger.input_tokens[request] + made - 1)
            ledger.last_token_seconds[request] = visible
            return True
        self._join(request)
        return False

    def _end(self, request: int, visible: float) -> int:
        """The last token of `request` is there."""
        self.ledger.made_tokens[request] = self.ledger.output_tokens[request]
        self.ledger.last_token_seconds[request] = visible
        self._release(request, self._full_tokens(request) - 1)
        return request

    def _make_room(self) -> bool:
        """Preempt the youngest until the next iteration finds its blocks; returns whether nobody had to go."""
        had_room = True
        while self.blocks.needed(self.running.step) > self.blocks.free:
            self._preempt(keeps_copy=self.spec.swap_seconds_per_token > 0.0)
            had_room = False
        return had_room

    def _preempt(self, *, keeps_copy: bool) -> None:
        """Send the youngest back to the head of the queue, its keys and values copied to the host or lost."""
        ledger = self.ledger
        if self.partial != NOBODY:
            request, stored, keeps_copy = self.partial, self._prompt_tokens(self.partial), False
            self.partial, self.partial_tokens = NOBODY, 0
        elif self.prefills:
            request = self.prefills.pop()[0]
            stored, keeps_copy = self._prompt_tokens(request), False
        else:
            request = self.running.youngest()
            stored = self.running.drop(request) - 1
            ledger.made_tokens[request] = stored + 1 - ledger.input_tokens[request]
        self._release(request, stored)
        ledger.ready_tokens[request] = stored if keeps_copy else 0
        self.copy_seconds += self.spec.swap_seconds_per_token * ledger.ready_tokens[request]
        ledger.num_preemptions[request] += 1
        self.waiting.appendleft(request)
        self.hold.arrive(request)

    # What they hold.

    def _prompt_tokens(self, request: int) -> int:
        """Tokens to have in memory before it can go on: its prompt, and what it made before it was preempted."""
        ledger = self.ledger
        return ledger.ready_tokens[request] or ledger.input_tokens[request] + ledger.made_tokens[request]

    def _full_tokens(self, request: int) -> int:
        """Its prompt and its whole answer, as far as this loop makes it."""
        ledger = self.ledger
        return ledger.input_tokens[request] + (1 if self.prompts_only else ledger.output_tokens[request])

    def _reservation(self, request: int) -> tuple[int, int]:
        """(tokens of the prompt that need not be run, free blocks that admitting it takes)."""
        prompt = self._prompt_tokens(request)
        blocks = self.blocks.of(self._full_tokens(request) - 1 if self.reserves else prompt)
        if self.cache is None:
            return min(self.ledger.cached_tokens[request], prompt - 1), blocks
        found, in_use = self.cache.match(self.ledger.prefix_ids(request))
        return min(found * self.cache.block_tokens, prompt - 1), blocks - in_use * self.cache.num_blocks

    def _hold(self, request: int, cached: int) -> None:
        """Take the memory of `request`."""
        prompt = self._prompt_tokens(request)
        self._charge(request, prompt, 1)
        self.num_admitted += 1
        self.hold.admit(request)
        self.ledger.cached_tokens[request] = cached
        if self.ledger.ready_tokens[request] and self.ledger.num_preemptions[request]:
            self.copy_seconds += self.spec.swap_seconds_per_token * prompt

    def _release(self, request: int, stored: int) -> None:
        """Give it back, when `request` stores so many tokens."""
        self._charge(request, stored, -1)
        self.num_admitted -= 1
        self.hold.leave(request)

    def _charge(self, request: int, tokens: int, sign: int) -> None:
        """Count the blocks of `request` in or out; those with names belong to the cache."""
        num_blocks = self.blocks.of(self._full_tokens(request) - 1 if self.reserves else tokens)
        if self.cache is not None:
            names = self.ledger.prefix_ids(request)
            num_blocks -= len(names) * self.cache.num_blocks
            (self.cache.take if sign > 0 else self.cache.give)(names)
        self.blocks.used += sign * num_blocks
