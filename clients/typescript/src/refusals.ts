// A vault's refusals, as errors: OAuth errors (RFC 6749 §5.2) and problem documents (RFC 9457).

/** The vault refused. `code` is stable; `description` says what to do; `members` has the rest of the answer. */
export class VaultRefused extends Error {
  constructor(
    readonly code: string,
    readonly description: string,
    readonly status: number,
    readonly members: Record<string, unknown>,
    readonly retryAfter: number | null,
  ) {
    super(`${code}: ${description}`);
    this.name = new.target.name;
  }
}

/** The person must connect an account, or allow this program to use it, at `connectUri`. */
export class ConnectionNeeded extends VaultRefused {
  get connectUri(): string {
    return String(this.members.connect_uri ?? "");
  }
}

export function refusalOf(answer: Response, members: Record<string, unknown>): VaultRefused {
  const code = String(members.error ?? members.code ?? "server_error");
  const said = String(members.error_description ?? members.detail ?? `the vault answered ${answer.status}`);
  const wait = Number(answer.headers.get("retry-after") ?? Number.NaN);
  const Kind = members.connect_uri ? ConnectionNeeded : VaultRefused;
  return new Kind(code, said, answer.status, members, Number.isNaN(wait) ? null : wait);
}
