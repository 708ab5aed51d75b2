// Vercel AI SDK: the `execute` of a tool, with the person's token, which no model sees.
import { ConnectionNeeded, explain, type TokenOptions, type UpstreamToken, type Vault } from "./index.js";

/** `tool({ inputSchema, execute: withToken(vault, "slack", { scopes }, async (input, token) => ...) })` */
export function withToken<Input, Result>(
  vault: Vault,
  audience: string,
  options: TokenOptions,
  run: (input: Input, token: UpstreamToken) => Promise<Result>,
): (input: Input) => Promise<Result | string> {
  return async (input) => {
    let token: UpstreamToken;
    try {
      token = await vault.token(audience, options);
    } catch (error) {
      if (error instanceof ConnectionNeeded) return explain(error);
      throw error;
    }
    return run(input, token);
  };
}
