"""Attacks on every bound: correct evaluations, in every order, on adversarial values."""
