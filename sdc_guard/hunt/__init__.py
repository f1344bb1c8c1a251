"""The search for operations that silently diverge: calls are drawn, made, and judged by oracles.

``templates`` (what can be called) -> ``strategies`` (a drawn :class:`~sdc_guard.hunt.trial.Trial`)
-> ``execution`` (the call made, its operators recorded) -> ``oracles`` (``Divergence`` or nothing)
-> ``reduce`` (the smallest trial that still diverges) -> scripts, bundles and the report.
"""
