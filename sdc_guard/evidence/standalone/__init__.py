"""The part of the package that travels in each bundle: it imports torch and the standard library.

``python finding.sdcz`` runs :func:`~sdc_guard.evidence.standalone.script.main` out of the bundle
itself; the package reads bundles through the same modules.
"""
