"""Operations of the networks: one folder each, a torch reference and faster backends."""
