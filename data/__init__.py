"""Input: sources, order, batching, prefetch. numpy only; never imports jax itself."""
