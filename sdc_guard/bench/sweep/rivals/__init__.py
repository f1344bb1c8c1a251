"""Tests of hardware in use today, written anew from their descriptions, one file each."""
