// GitHub with octokit: open an issue and list, with a handle.
import { Octokit } from "octokit";

const octokit = new Octokit({ auth: process.env.HANDLE, baseUrl: process.env.API_BASE_URL });

const where = { owner: "alice", repo: "garden" };
const { data: issue } = await octokit.rest.issues.create({ ...where, title: "Rake the leaves" });
const issues = await octokit.paginate(octokit.rest.issues.listForRepo, { ...where, per_page: 2 });
console.log(issue.number, issues.length);
