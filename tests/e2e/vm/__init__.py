"""A virtual machine whose kernel is Debian's, and whose TEE answers from outside: tests/e2e/vm/machine.py"""
