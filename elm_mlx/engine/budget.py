class Budget:
    def __init__(self, limit):
        self.limit, self.used = limit, 0

    def has_room(self, n):
        return self.used + n <= self.limit

    def reserve(self, n):
        self.used += n
        return True

    def release(self, n):
        self.used -= n

    def refuse_impossible(self, n):
        from elm_mlx.errors import NotEnoughMemory

        if n > self.limit:
            raise NotEnoughMemory("no")
