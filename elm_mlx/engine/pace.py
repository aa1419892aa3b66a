class Pace:
    def __init__(self, mode):
        self.mode = mode

    def is_early(self, n):
        return self.mode != "late"

    def note(self, s):
        pass
