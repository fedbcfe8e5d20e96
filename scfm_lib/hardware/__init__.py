"""What is in this machine, with and without torch, and which graphics cards there are in the world."""
