"""The experiments of the RelP paper (Rezaei Jafari et al. 2025), one command each."""
