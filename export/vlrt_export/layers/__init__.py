"""The layers that families are composed of; what is written here serves every family."""
