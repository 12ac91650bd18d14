"""The sub-commands of `bursar`, each imported only when it is asked for."""
