// Runs before the page is painted, so that a chosen theme never flashes the other one.
try {
  document.documentElement.dataset.theme = localStorage.getItem("elm-mlx.theme") ?? "";
} catch {
  // without storage the theme is the system's
}
