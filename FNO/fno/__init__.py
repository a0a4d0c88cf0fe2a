"""Fourier neural operators on 2D Poisson, advection-diffusion and Helmholtz problems."""
