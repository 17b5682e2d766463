"""A function of a program made ready to run: names resolved, types checked, lifetimes known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vlrt_runtime.errors import PackageError
from vlrt_runtime.mil.constants import Constant, Constants, literal
from vlrt_runtime.mil.folder import Folder
from vlrt_runtime.mil.ops import RULES
from vlrt_runtime.mil.types import FLOATS, TensorSpec, Type

__all__ = ["Function", "Reference", "Step", "prepare"]

Reference = str | Constant  # a value's name, or the value itself
LISTS = ("values",)  # parameters that take several values
CONVERTING = ("cast", "constexpr_cast")  # what may change a float's type
READ, WRITE, UPDATE = "read_state", "write_state", "slice_update"


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        kind: of the operation.
        arguments: by parameter.
        outputs: names and declared types.
        drops: values that no later step reads.
        in_place: the result may be the operand's own memory, see `_in_place`.
    """

    kind: str
    arguments: Mapping[str, Reference | list[Reference]]
    outputs: tuple[tuple[str, Type], ...]
    drops: tuple[str, ...] = ()
    in_place: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.outputs[0][0] if self.outputs else ''!r}"

    def names(self) -> list[str]:
        """The values that it reads."""
        found: list[str] = []
        for argument in self.arguments.values():
            items = argument if isinstance(argument, list) else [argument]
            found += [item for item in items if isinstance(item, str)]
        return found


@dataclass(frozen=True)
class Function:
    """A function of a program: its interface and its steps.

    Attributes:
        inputs: that a call gives.
        outputs: that it returns.
        states: that are kept between calls.
        results: what is returned, by output name.
        steps: in order.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...]
    results: Mapping[str, Reference] = field(repr=False)
    steps: tuple[Step, ...] = field(repr=False)


def prepare(message: dict[str, Any], folder: Folder, where: str) -> Function:
    """Makes the message `Function` ready to run.

    Raises:
        PackageError: it uses an operation that is unknown, a value that does not exist, or types
            that do not fit.
    """
    block = message.get("blocks", {}).get(message.get("opset", ""))
    if block is None:
        raise PackageError(f"{where}: no block for its opset; export the package again")
    reader = _Reader(folder, where)
    for named in message.get("inputs", []):
        reader.add_input(named)
    for operation in block.get("operations", []):
        reader.add_operation(operation)
    names: list[str] = block.get("outputs", [])
    results = {name: reader.resolve(name, "its outputs") for name in names}
    outputs = tuple(TensorSpec(name, t.dtype, t.shape) for name, t in reader.typed(names))
    kept = frozenset(value for value in results.values() if isinstance(value, str))
    steps = _with_lifetimes(reader.steps, kept)
    return Function(tuple(reader.inputs), outputs, tuple(reader.states), results, steps)


class _Reader:
    """Collects the parts of one function, in the order of the file."""

    def __init__(self, folder: Folder, where: str) -> None:
        self.inputs: list[TensorSpec] = []
        self.states: list[TensorSpec] = []
        self.steps: list[Step] = []
        self._folder, self._where = folder, where
        self._types: dict[str, Type] = {}
        self._constants: dict[str, Constant] = {}

    def add_input(self, named: dict[str, Any]) -> None:
        name, type_ = named.get("name", ""), named.get("type", {})
        where = f"{self._where}: input {name!r}"
        state = type_.get("state")
        declared = Type.of(type_ if state is None else state.get("wrapped", {}), where)
        self._declare(name, declared, where)
        spec = TensorSpec(name, declared.dtype, declared.shape)
        (self.inputs if state is None else self.states).append(spec)

    def add_operation(self, message: dict[str, Any]) -> None:
        kind = message.get("type", "")
        named: list[dict[str, Any]] = message.get("outputs", [])
        where = f"{self._where}: {kind} {named[0].get('name', '') if named else ''!r}"
        if kind not in RULES and kind not in ("const", READ, WRITE):
            raise PackageError(f"{where}: an operation that is unknown to this version of vlrt")
        if message.get("blocks"):
            raise PackageError(f"{where}: control flow is not supported")
        arguments: dict[str, Any] = {}
        for parameter, argument in message.get("inputs", {}).items():
            found = [self._bound(b, where, parameter) for b in argument.get("bindings", [])]
            if parameter not in LISTS and len(found) != 1:
                raise PackageError(f"{where}: {len(found)} values for {parameter!r}, expected one")
            arguments[parameter] = found if parameter in LISTS else found[0]
        for parameter, value in message.get("attributes", {}).items():
            if parameter != "name":
                arguments[parameter] = literal(value, self._folder, f"{where}: {parameter}")
        outputs = tuple((n.get("name", ""), Type.of(n.get("type", {}), where)) for n in named)
        step = Step(kind, arguments, outputs)
        self._check_floats(step, where)
        for name, type_ in outputs:
            self._declare(name, type_, where)
        if kind == "const" or kind.startswith("constexpr_"):
            if len(outputs) != 1:
                raise PackageError(f"{where}: {len(outputs)} outputs, expected one")
            self._constants[outputs[0][0]] = self._constant(step, where)
        else:
            self._check_state(step, where)
            self.steps.append(step)

    def resolve(self, name: str, where: str) -> Reference:
        """What a name stands for."""
        if name in self._constants:
            return self._constants[name]
        if name not in self._types:
            raise PackageError(f"{self._where}: {where}: no value {name!r} before it")
        return name

    def typed(self, names: list[str]) -> list[tuple[str, Type]]:
        """Names with their types."""
        return [(name, self._types[name]) for name in names]

    def _declare(self, name: str, type_: Type, where: str) -> None:
        if name in self._types:
            raise PackageError(f"{where}: a value {name!r} exists already; export it again")
        self._types[name] = type_

    def _bound(self, binding: dict[str, Any], where: str, parameter: str) -> Reference:
        if "name" in binding:
            return self.resolve(binding["name"], f"{where}: {parameter}")
        return literal(binding.get("value", {}), self._folder, f"{where}: {parameter}")

    def _type(self, reference: Reference) -> Type:
        return self._types[reference] if isinstance(reference, str) else reference.type

    def _check_floats(self, step: Step, where: str) -> None:
        """No operation but a cast makes a float of another width than its operands have."""
        given = {
            self._type(item).dtype
            for argument in step.arguments.values()
            for item in (argument if isinstance(argument, list) else [argument])
        }.intersection(FLOATS)
        if not given or step.kind in CONVERTING:
            return
        for name, type_ in step.outputs:
            if type_.dtype in FLOATS and type_.dtype not in given:
                expected = " or ".join(sorted(given))
                raise PackageError(f"{where}: {name!r}: expected {expected}, got {type_}")

    def _check_state(self, step: Step, where: str) -> None:
        states = {state.name for state in self.states}
        used = states.intersection(step.names())
        if step.kind in (READ, WRITE):
            if list(used) != [step.arguments.get("input")]:
                raise PackageError(f"{where}: expected a state, got {step.names()}")
        elif used:
            raise PackageError(f"{where}: state {min(used)!r} used as a value; export it again")

    def _constant(self, step: Step, where: str) -> Constant:
        type_ = step.outputs[0][1]
        if step.kind == "const":
            value = step.arguments.get("val")
            if not isinstance(value, Constant) or value.type != type_:
                found = value.type if isinstance(value, Constant) else value
                raise PackageError(f"{where}: expected a value of {type_}, got {found}")
            return value
        parts = {k: v for k, v in step.arguments.items() if isinstance(v, Constant)}
        if len(parts) != len(step.arguments):
            raise PackageError(f"{where}: made of values that are no constants")
        key = (step.kind, type_, tuple(sorted((k, v.key) for k, v in parts.items())))

        def make() -> Any:
            from vlrt_runtime.mil.run import apply  # which runs what this module prepares

            once = Constants(0)
            values = {k: once.get(v, declared=False) for k, v in parts.items()}
            return apply(step, values, where)[0]

        return Constant(type_, key, make)


def _with_lifetimes(steps: list[Step], kept: frozenset[str]) -> tuple[Step, ...]:
    """Adds when values are dropped, and which steps may work in place."""
    last = {name: at for at, step in enumerate(steps) for name, _ in step.outputs}
    last |= {name: at for at, step in enumerate(steps) for name in step.names()}
    last |= dict.fromkeys(kept, len(steps))
    dying: dict[int, list[str]] = {}
    for name, at in last.items():
        dying.setdefault(at, []).append(name)
    in_place = _in_place(steps, last)
    return tuple(
        replace(step, drops=tuple(dying.get(at, ())), in_place=at in in_place)
        for at, step in enumerate(steps)
    )


def _in_place(steps: list[Step], last: Mapping[str, int]) -> set[int]:
    """Steps that need no copy of a state, which is by far the largest value of a decoder.

    A read lends the state's own memory if nothing looks at it after the next write; an update of
    what was lent works in it if nothing looks at the old value again, nor at the new one after the
    write that stores it.
    """
    writes: dict[str, list[int]] = {}
    for at, step in enumerate(steps):
        if step.kind == WRITE:
            writes.setdefault(str(step.arguments["input"]), []).append(at)
    found: set[int] = set()
    lent: dict[str, str] = {}
    for at, step in enumerate(steps):
        if step.kind not in (READ, UPDATE) or len(step.outputs) != 1:
            continue
        output = step.outputs[0][0]
        source = step.arguments.get("input" if step.kind == READ else "x")
        state = source if step.kind == READ else lent.get(str(source))
        write = next((w for w in writes.get(str(state), []) if w > at), None)
        if not isinstance(state, str):
            continue
        if step.kind == READ:
            allowed = last[output] < (len(steps) if write is None else write + 1)
        else:
            again = any(
                other.kind == READ and other.arguments["input"] == state
                for other in steps[at : (write or at)]
            )
            alone = step.names().count(str(source)) == 1 and all(
                last[name] <= at for name, of in lent.items() if of == state
            )
            allowed = write is not None and not again and alone and last[output] <= write
        if allowed:
            found.add(at)
            lent[output] = state
    return found
