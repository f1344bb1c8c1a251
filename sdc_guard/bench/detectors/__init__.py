"""Detectors of silent corruption behind one interface; one file each."""
