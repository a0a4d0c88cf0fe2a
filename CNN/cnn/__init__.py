"""ResNet-18 on CIFAR-10 and CIFAR-100: the reference point from computer vision."""
