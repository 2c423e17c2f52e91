"""The loop that turns requests into tokens, the same on every target.

Any number of threads may run requests over one engine. A thread that needs a token while no step is running runs the
next step, for all requests; the others sleep until an outcome is in their queue, or the step has ended without one for
them. A single caller never changes threads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from threading import Lock

from QEfficient.errors import LifecycleError, QEffError
from QEfficient.generation.request import NewToken, Outbox, Outcome, Request, RequestState, check_request, choose
from QEfficient.generation.scheduler import Scheduler, Step
from QEfficient.generation.sessions.session import Session
from QEfficient.generation.turns import Turns


class Engine:
    """Runs requests over a session, as many at once as its slots and blocks allow."""

    def __init__(self, session: Session):
        self.session = session
        self._scheduler = Scheduler(session.info)
        self._states: dict[int, RequestState] = {}
        self._ids = count()
        # A generator may be finalised at any moment, even inside the lock: its finaliser must not take the lock.
        self._cancelled: deque[RequestState] = deque()
        # Guards the attributes above. The session runs outside the lock, for the one caller that has the turn.
        self._lock = Lock()
        self._turns = Turns()
        self._is_closed = False

    def add(self, request: Request, outbox: Outbox | None = None) -> int:
        """Queue a request.

        Args:
            request: what to run.
            outbox: gets the request's outcomes, whichever thread steps; None: only :meth:`step` returns them.

        Returns:
            The request's id.

        Raises:
            CapacityError, OptionError: see :func:`check_request`.
            LifecycleError: the engine is closed.
        """
        request_id = next(self._ids)
        check_request(request, self.session.info, request_id)
        self._enqueue([self._state(request_id, request, request_id, outbox)])
        return request_id

    def cancel(self, request_id: int) -> None:
        """Drop a request; its slot and blocks are free for the next step. No effect on a finished one."""
        state = self._states.get(request_id)
        if state is not None:
            self._cancelled.append(state)

    def step(self) -> dict[int, Outcome]:
        """Run one step, after that of another thread if one is running.

        Returns:
            By request id, the new token, or the error that ended the request.

        Raises:
            LifecycleError: the engine is closed.
        """
        caller: Outbox = Outbox()
        try:
            while not self._turns.take(caller):
                caller.get()
            return self._step()
        finally:
            self._turns.end(caller)

    def run(self, requests: Iterable[Request]) -> Generator[NewToken, None, None]:
        """Tokens of these requests as they are generated; those of each request are in order.

        The requests start when the first token is asked for. Closing or dropping the iterator cancels the rest.

        Raises:
            CapacityError, OptionError: see :func:`check_request`; before anything runs.
            LifecycleError: the engine is closed.
        """
        self._check_open()
        requests = list(requests)
        for index, request in enumerate(requests):
            check_request(request, self.session.info, index)
        return self._run(requests)

    def close(self) -> None:
        """Close the session. Once closed, this does nothing.

        Raises:
            LifecycleError: requests are running.
        """
        with self._lock:
            if self._is_closed:
                return
            self._drop_cancelled()
            if self._states or self._turns.is_taken:
                raise LifecycleError(
                    f"{len(self._states)} request(s) are running on this package: let them finish, or close their "
                    "iterators, before it is closed or opened on other devices."
                )
            self._is_closed = True
            self.session.close()

    @contextmanager
    def exclusive(self) -> Iterator[Session]:
        """The session, for a caller that steps it itself, from position 0 on; requests wait meanwhile.

        Raises:
            LifecycleError: requests are running, or the engine is closed.
        """
        caller: Outbox = Outbox()
        try:
            while not self._turns.take(caller):
                caller.get()
            with self._lock:
                self._check_open()
                self._drop_cancelled()
                if self._states:
                    raise LifecycleError(f"{len(self._states)} request(s) are running on this package: wait for them.")
            yield self.session
        finally:
            self._turns.end(caller)

    def _run(self, requests: list[Request]) -> Generator[NewToken, None, None]:
        outbox: Outbox = Outbox()
        states = [self._state(next(self._ids), request, index, outbox) for index, request in enumerate(requests)]
        num_open = len(states)
        try:
            self._enqueue(states)
            while num_open:
                token = self._receive(outbox)
                num_open -= token.finish_reason is not None
                yield token
        finally:
            if num_open:
                self._cancelled.extend(states)
            self._turns.end(outbox)

    def _receive(self, outbox: Outbox) -> NewToken:
        """A caller's next token. This thread steps unless another one does.

        Raises:
            Exception: what ended one of the caller's requests.
        """
        while True:
            if outbox.empty() and self._turns.take(outbox):
                try:
                    self._step()
                finally:
                    self._turns.end(outbox)
                continue
            outcome = outbox.get()
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                return outcome

    def _state(self, request_id: int, request: Request, index: int, outbox: Outbox | None) -> RequestState:
        return RequestState(request_id, request, index=index, outbox=outbox, info=self.session.info)

    def _enqueue(self, states: list[RequestState]) -> None:
        with self._lock:
            self._check_open()
            for state in states:
                self._states[state.request_id] = state
                self._scheduler.add(state.sequence)

    def _check_open(self) -> None:
        if self._is_closed:
            raise LifecycleError("This package was closed: open it again with from_package() to run requests.")

    def _drop_cancelled(self) -> None:
        while self._cancelled:
            state = self._cancelled[0]
            if state.request_id in self._states:
                self._forget(state)
            self._cancelled.popleft()

    def _forget(self, state: RequestState) -> None:
        """Free what an unfinished request has."""
        self._scheduler.remove(state.sequence)
        del self._states[state.request_id]

    def _step(self) -> dict[int, Outcome]:
        """One step of the caller that has the turn.

        Raises:
            BaseException: of an interrupt, or where no request is concerned; other errors are outcomes.
        """
        step: Step = []
        try:
            with self._lock:
                self._check_open()
                self._drop_cancelled()
                step = self._scheduler.schedule()
            return self._run_step(step) if step else {}
        except BaseException as error:
            outcomes = self._fail(step, error)
            if not outcomes or not isinstance(error, Exception):
                raise
            return outcomes

    def _run_step(self, step: Step) -> dict[int, Outcome]:
        began = time.perf_counter()
        states = [self._states[sequence.request_id] for sequence, _ in step]
        logits = self.session.step([chunk for _, chunk in step])
        predicted = [state for state, (_, chunk) in zip(states, step, strict=True) if chunk.num_logits]
        tokens = choose(logits, predicted)
        seconds = (time.perf_counter() - began) / len(step)
        is_prefill = any(chunk.start < sequence.prompt_len for sequence, chunk in step)
        with self._lock:
            for state, (sequence, chunk) in zip(states, step, strict=True):
                self._scheduler.advance(sequence, chunk)
                state.times.note(seconds, is_prefill=is_prefill, num_tokens=chunk.num_logits)
            return {s.request_id: self._accept(s, token) for s, token in zip(predicted, tokens, strict=True)}

    def _accept(self, state: RequestState, chosen: int | QEffError) -> Outcome:
        if isinstance(chosen, QEffError):
            state.send(chosen)
            self._forget(state)
            return chosen
        token = state.accept(chosen)
        state.send(token)
        if token.finish_reason is not None:
            self._scheduler.release(state.sequence)
            del self._states[state.request_id]
        return token

    def _fail(self, step: Step, error: BaseException) -> dict[int, Outcome]:
        """End the requests of a step that failed. Other requests are not affected."""
        outcome = error if isinstance(error, Exception) else _interrupted(error)
        with self._lock:
            states = [self._states[s.request_id] for s, _ in step if s.request_id in self._states]
            for state in states:
                state.send(outcome)
                self._forget(state)
            self._scheduler.repair()
        return {state.request_id: outcome for state in states}


def _interrupted(error: BaseException) -> LifecycleError:
    """The error for callers whose step was interrupted in another thread."""
    interrupted = LifecycleError(
        f"The step was interrupted ({type(error).__name__}) in the thread that ran it for all callers: send the "
        "request again."
    )
    interrupted.__cause__ = error
    return interrupted
