"""``sdc-guard run``: a guard around an unmodified program, in every process of it that uses torch.

The parent puts the folder ``site`` before the child's ``PYTHONPATH``.  Python imports the
``sitecustomize`` there in every process; it waits for torch (``waiting``), then for the first
operator, module call or optimizer step (``arming``), and only then is a guard made (``guarded``).
A process that never gets so far, such as a launcher's agent, is left as it is.
"""
