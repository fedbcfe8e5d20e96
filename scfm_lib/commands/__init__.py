"""The commands, one function each: it reads its options, calls one function and prints what that returned."""
