"""Recognises errors that mean a lack of memory, and words the advice."""

_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
ADVICE = (
    "Lower loader.batch_size or the model's sizes, use more --workers on more machines, set "
    "sharding.memory_gb to what a worker really has so that the plan keeps to it, or take a table "
    "optimiser with less state (optim.tables.name rowwise_adagrad or sgd)."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tells if an error of Python, PyTorch or CUDA means that memory is used up."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)
    )


def out_of_memory_text(rank: int, reason: str, table_bytes: int | None, batch_rows: int) -> str:
    """A message that says which worker ran out of memory, what it held and what to change.

    The reason is the error's own text. The bytes are of the weights in the worker's tables, None
    before they are laid out; the rows are those of a step on one worker.
    """
    held = "tables not yet made"
    if table_bytes is not None:
        held = f"{table_bytes / 2**20:,.1f} MiB tables"
    said = " ".join(reason.split())[:300].rstrip(".")
    return (
        f"worker {rank} ran out of memory ({said}). It held: {held}, batches of {batch_rows:,} "
        f"rows. {ADVICE}"
    )
