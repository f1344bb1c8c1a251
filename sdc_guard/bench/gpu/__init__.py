"""What checking by Triton kernels costs on a CUDA device, against floors, reruns and a rival.

One file for each measurement, which runs as a job in a process of its own (``run``): a kernel that
breaks the device, or hangs, costs its own figure and no other.  On a CPU the same code runs in
Triton's interpreter at tiny sizes, which shows that it works and says nothing about a device.
"""
