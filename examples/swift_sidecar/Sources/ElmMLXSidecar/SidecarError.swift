import Foundation

/// Why a request has no result.
public enum SidecarError: Error, Sendable, Equatable {
    /// The sidecar refused the request: JSON-RPC's code, a sentence, and the class of the error in elm-mlx.
    case refused(code: Int, message: String, kind: String?)
    /// The process ended before it answered.
    case ended
    /// The process does not run: `start` was not called, or it was stopped.
    case notRunning

    init(_ error: JSONValue) {
        self = .refused(
            code: error["code"]?.whole ?? 0,
            message: error["message"]?.text ?? "",
            kind: error["data"]?["kind"]?.text
        )
    }
}

extension SidecarError: LocalizedError {
    public var errorDescription: String? {
        switch self {
        case .refused(_, let message, _): return message
        case .ended: return "The model's helper has ended."
        case .notRunning: return "The model's helper is not running."
        }
    }
}
